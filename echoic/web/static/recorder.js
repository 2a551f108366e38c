// The microphone. What the browser recorded (webm, mp4) is decoded here and sent as WAV, which
// every server reads; what cannot be decoded is sent as it is.
import { $, clock, el, icon, tellWrong } from './dom.js';
import { sounds } from './sounds.js';

const RATE_HZ = 48_000;

let running = null; // {recorder, timer}
let asking = false; // the browser asks whether it may

function missing() {
  if (!window.isSecureContext) return 'Recording needs https or this machine itself (localhost).';
  if (!navigator.mediaDevices?.getUserMedia || !window.MediaRecorder)
    return 'This browser cannot record.';
  return null;
}

const REASONS = {
  NotFoundError: 'no microphone was found on this device',
  NotAllowedError: 'the browser was not allowed to use the microphone: allow it for this page',
  NotReadableError: 'the microphone is in use by something else',
};

async function begin() {
  if (asking) return;
  tellWrong($('record-wrong'), null);
  let stream;
  asking = true;
  try {
    // As it sounds: what makes speech clear to a phone call spoils other sounds.
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
  } catch (error) {
    tellWrong($('record-wrong'), `Not recorded: ${REASONS[error.name] ?? error.message}.`);
    return;
  } finally {
    asking = false;
  }
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.addEventListener('dataavailable', (event) => parts.push(event.data));
  recorder.addEventListener('stop', () => ended(stream, parts, recorder.mimeType));
  recorder.start(1000);
  const started = performance.now();
  running = { recorder, timer: setInterval(() => elapsed(started), 200) };
  show();
  elapsed(started);
}

function elapsed(started) {
  const gone_s = (performance.now() - started) / 1000;
  $('record-time').textContent = clock(gone_s);
  if (gone_s >= longest_s() - 1) end();
}

function end() {
  if (running.recorder.state !== 'inactive') running.recorder.stop();
}

// What the server takes, as WAV.
function longest_s() {
  const { sound_s = Infinity, upload_bytes = Infinity } = sounds.limits;
  return Math.min(sound_s, (upload_bytes - 44) / (2 * RATE_HZ));
}

// Also where the microphone was unplugged.
async function ended(stream, parts, type) {
  clearInterval(running.timer);
  running = null;
  show();
  for (const track of stream.getTracks()) track.stop();
  const blob = new Blob(parts, { type });
  const when = new Date().toTimeString().slice(0, 8).replaceAll(':', '-');
  try {
    sounds.add([new File([await asWav(blob)], `recording ${when}.wav`, { type: 'audio/wav' })]);
  } catch {
    sounds.add([
      new File([blob], `recording ${when}.${type.includes('mp4') ? 'm4a' : 'webm'}`, { type }),
    ]);
  }
}

async function asWav(blob) {
  const context = new OfflineAudioContext(1, 1, RATE_HZ);
  const heard = await context.decodeAudioData(await blob.arrayBuffer());
  const channels = Array.from({ length: heard.numberOfChannels }, (_, c) =>
    heard.getChannelData(c),
  );
  const bytes = new DataView(new ArrayBuffer(44 + heard.length * 2));
  const word = (at, text) => [...text].forEach((c, i) => bytes.setUint8(at + i, c.charCodeAt(0)));
  word(0, 'RIFF');
  bytes.setUint32(4, bytes.byteLength - 8, true);
  word(8, 'WAVEfmt ');
  bytes.setUint32(16, 16, true);
  bytes.setUint16(20, 1, true); // PCM
  bytes.setUint16(22, 1, true); // mono
  bytes.setUint32(24, heard.sampleRate, true);
  bytes.setUint32(28, heard.sampleRate * 2, true);
  bytes.setUint16(32, 2, true);
  bytes.setUint16(34, 16, true);
  word(36, 'data');
  bytes.setUint32(40, heard.length * 2, true);
  for (let t = 0; t < heard.length; t += 1) {
    const mean = channels.reduce((sum, channel) => sum + channel[t], 0) / channels.length;
    bytes.setInt16(44 + 2 * t, Math.max(-1, Math.min(1, mean)) * 32_767, true);
  }
  return bytes.buffer;
}

function show() {
  const on = Boolean(running);
  $('record').classList.toggle('is-recording', on);
  $('record').replaceChildren(
    icon(on ? 'stop' : 'mic'),
    on ? 'Stop' : 'Record',
    el('span', { id: 'record-time', hidden: !on }),
  );
}

export function showRecorder() {
  const why = missing();
  show();
  if (why) {
    $('record').disabled = true;
    $('record-note').textContent = why;
    $('record-note').hidden = false;
    return;
  }
  $('record').addEventListener('click', () => (running ? end() : begin()));
}
