// Waveforms: what a sound looks like, what of it is meant, and where it plays.
import { address, get, same } from './api.js';
import { clock, colour, el, sheet, shown } from './dom.js';
import { player } from './player.js';

const BAR = 3; // CSS pixels of a bar and its gap
const SOFTEST = 0.05; // a soft sound is drawn up to 20 times as high
const AT_ONCE = 4; // peaks asked for at a time: each is a decoding on the server
const waves = new Set();
const byCanvas = new WeakMap();

let busy = 0;
const waiting = [];

async function inTurn(work) {
  if (busy >= AT_ONCE) await new Promise((go) => waiting.push(go));
  busy += 1;
  try {
    return await work();
  } finally {
    busy -= 1;
    waiting.shift()?.();
  }
}

const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) byCanvas.get(target)?.draw();
});
const views = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) byCanvas.get(target)?.load();
    }
  },
  { rootMargin: '200px' },
);

function forget(wave) {
  waves.delete(wave);
  for (const watch of [sizes, views]) watch.unobserve(wave.canvas);
}

function redraw(which) {
  for (const wave of waves) {
    if (!wave.element.isConnected) forget(wave);
    else if (which(wave)) wave.draw();
  }
}

let drawn = null; // what had the playhead
player.addEventListener('tick', () => redraw((wave) => player.has(wave.sound)));
player.addEventListener('change', () => {
  redraw((wave) => player.has(wave.sound) || same(wave.sound, drawn));
  drawn = player.sound;
});
addEventListener('echoic-theme', () => redraw(() => true));

export class Wave {
  // marks: [{start_s, end_s}] shaded, the best first. byKeyboard: a slider of its own; else the
  // row's keys do that.
  constructor(sound, { marks = [], points = 400, byKeyboard = false } = {}) {
    Object.assign(this, { sound, marks, points, peaks: null, asked: false });
    this.canvas = el('canvas', { 'aria-hidden': 'true' });
    this.note = el('span', { class: 'wave-note', hidden: true });
    this.element = el('div', { class: 'wave' }, this.canvas, this.note);
    this.element.addEventListener('click', (event) => player.play(sound, this.timeAt(event)));
    if (byKeyboard) this.#asSlider();
    waves.add(this);
    byCanvas.set(this.canvas, this);
    sizes.observe(this.canvas);
    views.observe(this.canvas);
  }

  timeAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const share = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    return share * this.sound.duration_s;
  }

  #asSlider() {
    const { element, sound } = this;
    const tell = () => {
      const now = player.has(sound) ? player.time_s : 0;
      element.setAttribute('aria-valuenow', now.toFixed(1));
      element.setAttribute('aria-valuetext', `${clock(now)} of ${clock(sound.duration_s)}`);
    };
    element.tabIndex = 0;
    element.setAttribute('role', 'slider');
    element.setAttribute('aria-label', `Waveform of ${shown(sound.name)}`);
    element.setAttribute('aria-valuemin', '0');
    element.setAttribute('aria-valuemax', sound.duration_s.toFixed(1));
    element.addEventListener('keydown', (event) => stepKeys(event, sound));
    element.addEventListener('focus', tell);
    this.tell = tell;
    tell();
  }

  async load() {
    if (this.asked) return;
    this.asked = true;
    try {
      const path = `${address(this.sound, 'peaks')}?points=${this.points}`;
      const answer = await inTurn(() => get(path));
      this.peaks = answer.peaks;
      this.gain = 1 / Math.max(SOFTEST, ...answer.peaks.flat().map(Math.abs));
      this.sound.duration_s ||= answer.duration_s;
      this.draw();
    } catch (error) {
      this.note.textContent = shown(error.message);
      this.note.hidden = false;
    }
  }

  draw() {
    this.tell?.();
    const { pen, width, height, ratio } = sheet(this.canvas);
    if (!width) return;
    const middle = height / 2;
    const duration_s = this.sound.duration_s || 1;
    const x = (time_s) => (time_s / duration_s) * width;
    const here = player.has(this.sound) ? x(player.time_s) : null;
    this.#shade(pen, x, height);
    const [rest, done, line] = [colour('wave'), colour('s0'), colour('ink')];
    if (!this.peaks) {
      pen.fillStyle = colour('rule');
      pen.fillRect(0, middle - 0.5, width, 1);
      return;
    }
    const bars = Math.max(1, Math.floor(width / BAR));
    const wide = Math.round((BAR - 1) * ratio) / ratio;
    for (let bar = 0; bar < bars; bar += 1) {
      const [low, high] = this.#between(bar / bars, (bar + 1) / bars);
      const [top, bottom] = [middle - high * (middle - 2), middle - low * (middle - 2)];
      pen.fillStyle = here !== null && bar * BAR < here ? done : rest;
      const left = Math.round(bar * BAR * ratio) / ratio; // on whole pixels of the screen
      pen.fillRect(left, Math.min(top, middle - 0.6), wide, Math.max(1.2, bottom - top));
    }
    if (here !== null) {
      pen.fillStyle = line;
      pen.fillRect(Math.min(width - 1.5, here), 0, 1.5, height);
    }
  }

  #shade(pen, x, height) {
    const washed = new Path2D(); // as one: where two meet it is no darker
    pen.fillStyle = colour('s1');
    this.marks.forEach(({ start_s, end_s }, rank) => {
      const [left, wide] = [x(start_s), Math.max(3, x(end_s) - x(start_s))];
      washed.rect(left, 0, wide, height);
      pen.fillRect(left, height - (rank ? 1 : 4), wide, rank ? 1 : 4);
    });
    pen.fillStyle = colour('mark-wash');
    pen.fill(washed);
  }

  #between(from, to) {
    const { peaks } = this;
    const first = Math.min(peaks.length - 1, Math.floor(from * peaks.length));
    const last = Math.max(first + 1, Math.ceil(to * peaks.length));
    let [low, high] = [0, 0];
    for (let at = first; at < last && at < peaks.length; at += 1) {
      low = Math.min(low, peaks[at][0]);
      high = Math.max(high, peaks[at][1]);
    }
    return [low * this.gain, high * this.gain];
  }
}

// Left and right: two seconds back and on, ten with shift. Space and enter: play or pause.
export function stepKeys(event, sound) {
  const step = { ArrowLeft: -2, ArrowRight: 2 }[event.key];
  if (step !== undefined) {
    const to = (player.has(sound) ? player.time_s : 0) + step * (event.shiftKey ? 5 : 1);
    if (player.has(sound)) player.seek(to);
    else player.play(sound, Math.max(0, to));
  } else if (event.key === ' ' || event.key === 'Enter') player.toggle(sound);
  else return false;
  event.preventDefault();
  return true;
}
