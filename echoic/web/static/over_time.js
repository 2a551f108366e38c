// Tag over time: how well each label fits, step by step, on lanes below the waveform.
import { named, post } from './api.js';
import {
  $,
  button,
  clock,
  colour,
  counted,
  el,
  icon,
  length,
  listed,
  seriesOf,
  sheet,
  shown,
  tellWrong,
} from './dom.js';
import { player } from './player.js';
import { Picker } from './tools.js';
import { Wave } from './wave.js';

const COLOURS = {
  probability:
    'The stronger the colour, the likelier among these labels; at each moment they add up to 1.',
  cosine: 'The stronger the colour, the closer the sound and the label (cosine).',
};

let picker;
let answer = null;
let lanes = []; // {canvas, index}
let shownSound = null;

async function tag() {
  const labels = listed($('labels').value);
  const { sound } = picker;
  if (!sound) return tellWrong($('tag-wrong'), 'Choose a sound first, or add one.');
  if (!labels.length)
    return tellWrong($('tag-wrong'), 'Say which labels to look for: dog barking, rain, speech.');
  tellWrong($('tag-wrong'), null);
  busy(true);
  try {
    const body = { ...named(sound), labels, threshold: Number($('threshold').value) };
    if ($('step').value) body.step_s = Number($('step').value);
    const given = await post('/api/tag', body);
    showTimeline(sound, given);
  } catch (error) {
    tellWrong($('tag-wrong'), error);
  }
  return busy(false);
}

function busy(on) {
  $('tag-go').classList.toggle('is-busy', on);
  $('tag-go').disabled = on;
  $('timeline').setAttribute('aria-busy', String(on));
  $('tag-told').textContent = on
    ? 'Listening…'
    : $('tag-told').textContent.replace('Listening…', '');
}

function showTimeline(sound, given) {
  answer = given;
  shownSound = { ...sound, duration_s: given.duration_s };
  const { labels, spans } = given;
  const wave = new Wave(shownSound, { points: 800, byKeyboard: true });
  lanes = labels.map((_, index) => ({ index, canvas: el('canvas', { 'aria-hidden': 'true' }) }));
  const laneRows = lanes.map(({ canvas, index }) => [
    el(
      'span',
      { class: `lane-name ${seriesOf(index)}` },
      el('i'),
      el('bdi', { title: shown(labels[index]) }, shown(labels[index])),
    ),
    el(
      'div',
      { class: 'lane', onclick: (event) => player.play(shownSound, timeIn(canvas, event)) },
      canvas,
    ),
  ]);
  const head = el('div', { class: 'head' });
  const axis = el('canvas', { class: 'axis', 'aria-hidden': 'true' });
  $('timeline').replaceChildren(
    el(
      'h3',
      {},
      el('bdi', { class: 'name' }, shown(sound.name)),
      el('span', { class: 'soft' }, length(given.duration_s)),
    ),
    el(
      'div',
      { class: 'lanes' },
      el('span', { class: 'lane-name' }),
      wave.element,
      laneRows.flat(),
      el('span'),
      axis,
      head,
    ),
    scaleLine(given),
    spansTable(labels, spans),
  );
  const found = counted(new Set(spans.map((span) => span.label)).size, 'label');
  $('tag-told').textContent = spans.length
    ? `${counted(spans.length, 'span')} of ${found} in ${length(given.duration_s)}.`
    : 'No label reaches the threshold: lower it, or ask for others.';
  const watch = new ResizeObserver(() => (axis.isConnected ? drawAll(axis) : watch.disconnect()));
  watch.observe(axis);
  movePlayhead();
}

function scaleLine({ scale, step_s }) {
  const steps = `One step is ${step_s} s;`;
  const line = 'the line below a lane is where it passes the threshold. Click to hear it.';
  return el('p', { class: 'note' }, `${COLOURS[scale] ?? ''} ${steps} ${line}`);
}

function timeIn(canvas, event) {
  const box = canvas.getBoundingClientRect();
  return Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)) * answer.duration_s;
}

function drawAll(axis) {
  if (!answer) return;
  for (const lane of lanes) drawLane(lane);
  drawAxis(axis);
}

function drawLane({ canvas, index }) {
  const { pen, width, height, ratio } = sheet(canvas);
  const { scores, step_s, duration_s, spans, labels, scale } = answer;
  const all = scale === 'cosine' ? scores.flat() : [0, 1];
  const low = all.reduce((a, b) => Math.min(a, b), Infinity);
  const high = all.reduce((a, b) => Math.max(a, b), -Infinity);
  pen.fillStyle = colour(seriesOf(index));
  const steps = duration_s / step_s;
  for (let column = 0; column < canvas.width; column += 1) {
    const from = Math.floor((column / canvas.width) * steps);
    const to = Math.max(from + 1, Math.ceil(((column + 1) / canvas.width) * steps));
    let top = -Infinity;
    for (let n = from; n < Math.min(to, scores.length); n += 1)
      top = Math.max(top, scores[n][index]);
    if (top === -Infinity) continue;
    pen.globalAlpha = Math.max(0, (top - low) / (high - low || 1));
    pen.fillRect(column / ratio, 0, 1 / ratio, height - 7);
  }
  pen.globalAlpha = 1;
  for (const span of spans) {
    if (span.label !== labels[index]) continue;
    const left = (span.onset_s / duration_s) * width;
    pen.fillRect(
      left,
      height - 4,
      Math.max(2, ((span.offset_s - span.onset_s) / duration_s) * width),
      4,
    );
  }
}

const TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];

function drawAxis(axis) {
  const { pen, width, height } = sheet(axis);
  const { duration_s } = answer;
  const step = TICKS.find((each) => (each / duration_s) * width >= 56) ?? 3600;
  pen.fillStyle = colour('soft');
  pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  for (let at = 0; at <= duration_s + 1e-6; at += step) {
    const x = (at / duration_s) * width;
    pen.fillRect(Math.min(width - 1, x), 0, 1, 5);
    pen.textAlign = at === 0 ? 'left' : x > width - 20 ? 'right' : 'center';
    pen.fillText(clock(at, step < 1 ? 1 : 0), x, height - 3);
  }
}

function movePlayhead() {
  const head = document.querySelector('#timeline .head');
  if (!head || !answer) return;
  head.hidden = !player.has(shownSound);
  head.style.setProperty('--at', player.time_s / (answer.duration_s || 1));
}

function spansTable(labels, spans) {
  if (!spans.length) return null;
  const rows = spans.map((span) => {
    const play = button(icon('play'), () => player.play(shownSound, span.onset_s), {
      class: 'icon-button',
    });
    play.setAttribute('aria-label', `Play ${shown(span.label)} from ${clock(span.onset_s, 1)}`);
    const series = seriesOf(labels.indexOf(span.label));
    return el(
      'tr',
      {},
      el('td', {}, play),
      el(
        'td',
        { class: `t ${series}` },
        el('i', { class: 'dot' }),
        el('bdi', {}, shown(span.label)),
      ),
      el('td', {}, clock(span.onset_s, 1)),
      el('td', {}, clock(span.offset_s, 1)),
      el('td', {}, span.score === null || span.score === undefined ? '' : span.score.toFixed(2)),
    );
  });
  const heads = [['', 'Play'], ['Label'], ['From'], ['To'], ['Score']].map(([text, unseen]) =>
    el(
      'th',
      { scope: 'col', class: text === 'Label' ? 't' : '' },
      unseen ? el('span', { class: 'unseen' }, unseen) : text,
    ),
  );
  return el(
    'div',
    { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Spans' },
    el('table', {}, el('thead', {}, el('tr', {}, heads)), el('tbody', {}, rows)),
  );
}

export const tagView = {
  start() {
    picker = new Picker($('tag-sound'), 'choose a sound');
    picker.addButton('tag-add');
    $('tag-form').addEventListener('submit', (event) => {
      event.preventDefault();
      tag();
    });
    $('threshold').addEventListener('input', () => {
      $('threshold-told').textContent = Number($('threshold').value).toFixed(2);
    });
    for (const kind of ['tick', 'change']) player.addEventListener(kind, movePlayhead);
    addEventListener('echoic-theme', () => {
      const axis = document.querySelector('#timeline .axis');
      if (axis) drawAll(axis);
    });
  },

  use(sound) {
    picker.pick(sound);
    if ($('labels').value.trim()) tag();
    else $('labels').focus();
  },
};
