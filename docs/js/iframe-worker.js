// A browser starts no worker from a file. Here a worker is a hidden frame, so that the search also
// runs where the site is opened from disk. It stands in for the shim that mkdocs-material would
// fetch from the network (its plugin leaves that out where a script of this name is given).
"use strict";
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      const inside = frame.contentWindow;
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.ready = new Promise((done) => {
        const script = inside.document.createElement("script");
        script.onload = () => done(inside);
        script.src = url;
        inside.document.body.appendChild(script);
      });
    }
    postMessage(data) {
      this.ready.then((inside) => inside.dispatchEvent(new inside.MessageEvent("message", { data })));
    }
  };
}
