// What the server is asked. Every failure is an Error of one line that can be shown as it is.

const SILENT = 'No answer from the server: is "echoic web" still running?';

export class Refused extends Error {
  constructor(line, status) {
    super(line);
    this.status = status;
  }
}

function refusal(status, text) {
  try {
    const { error } = JSON.parse(text);
    if (error) return new Refused(error, status);
  } catch {
    // not ours: a proxy's page, or nothing
  }
  if (status === 401)
    return new Refused('Open the address with ?token= that the server printed', 401);
  return new Refused(`The server answered ${status}, and did not say why.`, status);
}

async function call(method, path, body, signal) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      signal,
      headers: body === undefined ? {} : { 'Content-Type': 'application/json' },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Refused(SILENT, 0);
  }
  if (!answer.ok) throw refusal(answer.status, await answer.text());
  return answer.status === 204 ? null : answer.json();
}

export const get = (path, signal) => call('GET', path, undefined, signal);
export const post = (path, body, signal) => call('POST', path, body, signal);
export const remove = (path) => call('DELETE', path);

// A sound: one that was given ({kind: 'sound'}) or one of the index ({kind: 'file'}).
export const address = (sound, part) =>
  `/api/${sound.kind}s/${encodeURIComponent(sound.id)}/${part}`;
export const named = (sound) => ({ [sound.kind]: sound.id });
export const same = (one, other) =>
  Boolean(one && other && one.kind === other.kind && one.id === other.id);

// progress(0..1) while it is sent. fetch() cannot tell that; XMLHttpRequest can.
export function upload(file, name, progress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const form = new FormData();
    form.append('file', file, name);
    request.open('POST', '/api/sounds');
    request.upload.onprogress = (event) =>
      event.lengthComputable && progress(event.loaded / event.total);
    request.onerror = () => reject(new Refused(SILENT, 0));
    request.onload = () => {
      if (request.status === 201) resolve(JSON.parse(request.responseText));
      else reject(refusal(request.status, request.responseText));
    };
    request.send(form);
  });
}

// Why a sound does not play, in the server's words if it has some.
export async function whyNot(path) {
  try {
    const answer = await fetch(path, { headers: { Range: 'bytes=0-0' } });
    if (!answer.ok) return refusal(answer.status, await answer.text());
  } catch {
    return new Refused(SILENT, 0);
  }
  return new Refused('This browser cannot play it.', 0);
}
