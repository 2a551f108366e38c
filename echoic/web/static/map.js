// The index as a map: its vectors on their first two principal components, a dot for each sound.
import { get } from './api.js';
import { $, button, colour, counted, el, seriesOf, sheet, shown, tellWrong } from './dom.js';
import { showList } from './map_list.js';
import { player } from './player.js';

const POINTS = 2000;
const COLOURS = 8; // where there are more folders, those past the seventh share the last
const REACH = 14; // CSS pixels from the pointer to a dot that it means
const MOST = 40; // times as large

const canvas = $('map');
let points = null;
let colours = new Map();
let hidden = new Set(); // folders switched off
let at = null; // the dot that is meant
let view = { x: 0, y: 0, zoom: 1 };
let size = { across: 1, up: 1 }; // of the map, in the units of its vectors
let asking = false;

async function load() {
  if (points || asking) return;
  asking = true;
  $('map-told').textContent = 'Drawing the map…';
  tellWrong($('map-wrong'), null);
  $('map-again').hidden = true;
  try {
    const answer = await get(`/api/map?points=${POINTS}`);
    show(answer);
  } catch (error) {
    tellWrong($('map-wrong'), error);
    $('map-told').textContent = '';
    $('map-again').hidden = false;
  }
  asking = false;
}

function show({ explained, points: given }) {
  points = given.map((point) => ({ ...point, kind: 'file', folder: shown(point.folder) }));
  const extent = (key) =>
    points.reduce(([a, b], p) => [Math.min(a, p[key]), Math.max(b, p[key])], [Infinity, -Infinity]);
  const [[left, right], [low, high]] = [extent('x'), extent('y')];
  size = { across: right - left || 1, up: high - low || 1 };
  for (const point of points) {
    point.u = point.x - (left + right) / 2;
    point.v = (low + high) / 2 - point.y;
  }
  colourFolders();
  showList(points);
  $('map-box').hidden = !points.length;
  const [across, up] = explained.map((share) => `${Math.round(100 * share)} %`);
  const apart = given.length > 1 ? ` Across is ${across} of what sets them apart, up ${up}.` : '';
  $('map-told').textContent = points.length
    ? `${counted(points.length, 'sound')}: near each other is alike.${apart}`
    : 'There is nothing in the index yet.';
  draw();
}

function colourFolders() {
  const sizes = new Map();
  for (const { folder } of points) sizes.set(folder, (sizes.get(folder) ?? 0) + 1);
  const folders = [...sizes.keys()].sort(
    (a, b) => sizes.get(b) - sizes.get(a) || a.localeCompare(b),
  );
  const own = folders.length > COLOURS ? COLOURS - 1 : COLOURS;
  colours = new Map(folders.map((folder, i) => [folder, seriesOf(Math.min(i, own))]));
  const keys = folders
    .slice(0, own)
    .map((folder, i) => key(folder || '(top folder)', [folder], seriesOf(i), sizes.get(folder)));
  const rest = folders.slice(own);
  if (rest.length)
    keys.push(
      key(
        counted(rest.length, 'other folder'),
        rest,
        seriesOf(own),
        rest.reduce((n, f) => n + sizes.get(f), 0),
      ),
    );
  $('map-legend').replaceChildren(...keys);
}

function key(label, folders, series, count) {
  const made = button(
    [el('i'), el('bdi', {}, label), el('span', { class: 'count' }, String(count))],
    () => {
      const off = made.getAttribute('aria-pressed') === 'true';
      made.setAttribute('aria-pressed', String(!off));
      for (const folder of folders) hidden[off ? 'add' : 'delete'](folder);
      draw();
    },
    { class: `key ${series}`, title: 'Show or hide' },
  );
  made.setAttribute('aria-pressed', 'true');
  return el('li', {}, made);
}

// -- drawing --------------------------------------------------------------------------------------

// CSS pixels of a unit; the same both ways, so that near is near.
const scale = (width, height, zoom = view.zoom) =>
  0.88 * zoom * Math.min(width / size.across, height / size.up);
const place = (point, width, height) => {
  const unit = scale(width, height);
  return [width / 2 + (point.u - view.x) * unit, height / 2 + (point.v - view.y) * unit];
};
const visible = () => points.filter(({ folder }) => !hidden.has(folder));

function draw() {
  if (!points || !canvas.clientWidth) return;
  // All of it shown, there is nothing to drag: a finger then scrolls the page.
  canvas.style.touchAction = view.zoom > 1 ? 'none' : 'pan-y';
  const { pen, width, height } = sheet(canvas);
  const paints = new Map([...new Set(colours.values())].map((series) => [series, colour(series)]));
  const radius = Math.min(8, (points.length > 800 ? 3 : 4.5) * Math.sqrt(Math.min(view.zoom, 3)));
  pen.globalAlpha = 0.78;
  for (const point of visible()) {
    const [x, y] = place(point, width, height);
    pen.fillStyle = paints.get(colours.get(point.folder));
    pen.beginPath();
    pen.arc(x, y, radius, 0, 7);
    pen.fill();
  }
  pen.globalAlpha = 1;
  const playing = points.find((point) => player.has(point));
  if (playing) ring(pen, place(playing, width, height), radius + 4, colour('s1'));
  if (at && !hidden.has(at.folder)) ring(pen, place(at, width, height), radius + 4, colour('ink'));
  label(width, height);
}

function ring(pen, [x, y], radius, paint) {
  pen.strokeStyle = paint;
  pen.lineWidth = 2;
  pen.beginPath();
  pen.arc(x, y, radius, 0, 7);
  pen.stroke();
}

function label(width, height) {
  const tip = $('map-tip');
  tip.hidden = !at || hidden.has(at.folder);
  if (tip.hidden) return;
  tip.replaceChildren(
    el('bdi', { class: 'name' }, shown(at.name)),
    el('bdi', { class: 'soft' }, at.folder),
  );
  const [x, y] = place(at, width, height);
  const right = x > width / 2;
  tip.style.left = right ? 'auto' : `${x + 14}px`;
  tip.style.right = right ? `${width - x + 14}px` : 'auto';
  tip.style.top = `${Math.max(4, Math.min(height - 52, y - 20))}px`;
}

// -- pointer and keys -----------------------------------------------------------------------------

function nearest(x, y, reach = REACH) {
  const { clientWidth: width, clientHeight: height } = canvas;
  let [best, least] = [null, reach];
  for (const point of visible()) {
    const [px, py] = place(point, width, height);
    const far = Math.hypot(px - x, py - y);
    if (far < least) [best, least] = [point, far];
  }
  return best;
}

function zoomBy(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const zoom = Math.max(1, Math.min(MOST, view.zoom * factor));
  // what is under (x, y) stays there
  const shift = 1 / scale(width, height) - 1 / scale(width, height, zoom);
  view = { zoom, x: view.x + (x - width / 2) * shift, y: view.y + (y - height / 2) * shift };
  if (zoom === 1) view = { zoom, x: 0, y: 0 };
  draw();
}

function pan(dx, dy) {
  const unit = scale(canvas.clientWidth, canvas.clientHeight);
  view = { ...view, x: view.x - dx / unit, y: view.y - dy / unit };
  draw();
}

function keepInView() {
  const { clientWidth: width, clientHeight: height } = canvas;
  const [x, y] = place(at, width, height);
  const off = (value, most) =>
    value < 20 ? 20 - value : value > most - 20 ? most - 20 - value : 0;
  const [dx, dy] = [off(x, width), off(y, height)];
  if (dx || dy) pan(dx, dy);
}

function mean(point, { tell = false } = {}) {
  if (at === point) return;
  at = point;
  canvas.style.cursor = point ? 'pointer' : 'grab';
  if (tell && point)
    $('heard').textContent = `${shown(point.name)}, ${point.folder || 'top folder'}`;
  draw();
}

// The nearest dot that lies more that way than to the side.
function step(dx, dy) {
  const seen = visible();
  if (!at)
    return mean(nearest(canvas.clientWidth / 2, canvas.clientHeight / 2, Infinity), { tell: true });
  let [best, least] = [null, Infinity];
  for (const point of seen) {
    const [along, aside] = [
      (point.u - at.u) * dx + (point.v - at.v) * dy,
      Math.abs((point.u - at.u) * dy) + Math.abs((point.v - at.v) * dx),
    ];
    const far = Math.hypot(along, 2 * aside);
    if (point !== at && along > 0 && aside <= along && far < least) [best, least] = [point, far];
  }
  if (!best) return undefined;
  mean(best, { tell: true });
  return keepInView();
}

const KEYS = {
  ArrowLeft: () => step(-1, 0),
  ArrowRight: () => step(1, 0),
  ArrowUp: () => step(0, -1),
  ArrowDown: () => step(0, 1),
  '+': () => zoomBy(1.4),
  '=': () => zoomBy(1.4),
  '-': () => zoomBy(1 / 1.4),
  0: () => zoomBy(0),
  ' ': () => at && player.toggle(at),
  Enter: () => at && player.toggle(at),
};

function byKeyboard(event) {
  if (!points || event.ctrlKey || event.metaKey || event.altKey) return;
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

function byPointer() {
  const held = new Map(); // pointer -> [x, y]
  let moved = 0;
  const where = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener('pointerdown', (event) => {
    held.set(event.pointerId, where(event));
    if (held.size === 1) moved = 0;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener('pointermove', (event) => {
    const [x, y] = where(event);
    const before = held.get(event.pointerId);
    if (!before) return points && mean(nearest(x, y));
    held.set(event.pointerId, [x, y]);
    moved += Math.hypot(x - before[0], y - before[1]);
    const other = [...held].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const far = (from) => Math.hypot(from[0] - other[0], from[1] - other[1]) || 1;
      zoomBy(far([x, y]) / far(before), (x + other[0]) / 2, (y + other[1]) / 2);
    } else if (moved > 4) pan(x - before[0], y - before[1]);
    return undefined;
  });
  canvas.addEventListener('pointerup', (event) => {
    const [x, y] = where(event);
    if (points && held.size === 1 && moved <= 4) {
      mean(nearest(x, y, event.pointerType === 'touch' ? 2 * REACH : REACH));
      if (at) player.play(at, 0);
    }
    held.delete(event.pointerId);
  });
  canvas.addEventListener('pointercancel', (event) => held.delete(event.pointerId));
  canvas.addEventListener('pointerleave', () => held.size || mean(null));
  canvas.addEventListener(
    'wheel',
    (event) => {
      // Plain scrolling stays the page's, unless the map has the focus.
      if (!event.ctrlKey && document.activeElement !== canvas) return;
      event.preventDefault();
      zoomBy(Math.exp(-event.deltaY / 300), ...where(event));
    },
    { passive: false },
  );
}

export const mapView = {
  start(info) {
    this.ready = Boolean(info.index);
    if (!this.ready) {
      $('map-told').textContent = 'A map needs an index: start with "echoic web FOLDER".';
      return;
    }
    byPointer();
    canvas.addEventListener('keydown', byKeyboard);
    canvas.addEventListener(
      'focus',
      () => !at && points?.length && canvas.matches(':focus-visible') && step(0, 0),
    );
    $('zoom-in').addEventListener('click', () => zoomBy(1.6));
    $('zoom-out').addEventListener('click', () => zoomBy(1 / 1.6));
    $('zoom-all').addEventListener('click', () => zoomBy(0));
    $('map-again').addEventListener('click', load);
    $('map-find').addEventListener('input', () => showList(points));
    new ResizeObserver(draw).observe(canvas);
    player.addEventListener('change', draw);
    addEventListener('echoic-theme', draw);
  },

  show() {
    if (this.ready) load();
  },
};
