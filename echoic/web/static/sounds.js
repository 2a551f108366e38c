// The sounds that can be worked on: those given in this session, and those of the index that were
// sent to a tool. Events: 'change' and 'files' (what is here changed), 'progress' (detail: what is
// sent), 'added' (detail: the sound; stopped by who takes it).
import { get, remove, same, upload } from './api.js';
import { bytes } from './dom.js';

const SENT_AT_ONCE = 2;
const MAY_PASS = new Set([0, 408, 409, 429, 500, 502, 503, 504, 507]); // worth another try
const FILES_KEPT = 12; // of the index, the last ones

class Sounds extends EventTarget {
  given = []; // of the server
  sending = []; // {name, file, progress, error}: not there yet
  files = [];
  limits = {};
  #busy = 0;

  async load() {
    const held = await get('/api/sounds');
    this.given = held.map((sound) => ({ kind: 'sound', ...sound }));
    this.#tell();
  }

  all() {
    return [...this.given, ...this.files];
  }

  find(key) {
    return this.all().find((sound) => keyOf(sound) === key) ?? null;
  }

  add(files) {
    for (const file of files) {
      const entry = { name: file.name || 'sound', file, progress: null, error: null };
      const most = this.limits.upload_bytes;
      if (most && file.size > most) {
        entry.error = `${bytes(file.size)} is more than this server takes: ${bytes(most)}.`;
        entry.final = true;
      } else if (!file.size) {
        entry.error = 'It is empty, or a folder: give files.';
        entry.final = true;
      }
      this.sending.push(entry);
    }
    this.#next();
    this.#tell();
  }

  again(entry) {
    entry.error = null;
    this.#next();
    this.#tell();
  }

  forget(entry) {
    this.sending = this.sending.filter((each) => each !== entry);
    this.#tell();
  }

  use(sound) {
    if (sound.kind === 'file') {
      this.files = [sound, ...this.files.filter((each) => !same(each, sound))].slice(0, FILES_KEPT);
      this.dispatchEvent(new Event('files'));
    }
  }

  async remove(sound) {
    try {
      await remove(`/api/sounds/${encodeURIComponent(sound.id)}`);
    } catch (error) {
      if (error.status !== 404) throw error; // else it is gone already
    }
    this.given = this.given.filter((each) => each !== sound);
    this.#tell();
  }

  #next() {
    // The first sound begins the session: two first ones would begin two.
    while (this.#busy < (this.given.length ? SENT_AT_ONCE : 1)) {
      const entry = this.sending.find((each) => each.progress === null && !each.error);
      if (!entry) return;
      this.#send(entry);
    }
  }

  async #send(entry) {
    this.#busy += 1;
    entry.progress = 0;
    try {
      const answer = await upload(entry.file, entry.name, (share) => {
        entry.progress = share;
        this.dispatchEvent(new CustomEvent('progress', { detail: entry }));
      });
      const sound = { kind: 'sound', ...answer };
      this.sending = this.sending.filter((each) => each !== entry);
      this.given.push(sound);
      this.#tell();
      this.dispatchEvent(new CustomEvent('added', { detail: sound, cancelable: true }));
    } catch (error) {
      const line = error.message; // it stands below the name
      entry.error = line.startsWith(`${entry.name}: `) ? line.slice(entry.name.length + 2) : line;
      entry.final = !MAY_PASS.has(error.status);
      entry.progress = null;
      this.#tell();
    }
    this.#busy -= 1;
    this.#next();
  }

  #tell() {
    this.dispatchEvent(new Event('change'));
  }
}

export const keyOf = (sound) => `${sound.kind}:${sound.id}`;
export const sounds = new Sounds();
