// Elements made of plain values. Text only ever becomes text: nothing in this page parses markup.

// Control characters, and those that turn the direction of what follows: shown, never obeyed.
const UNSEEN =
  /[\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

export const $ = (id) => document.getElementById(id);
export const shown = (text) => String(text ?? '').replace(UNSEEN, '\ufffd');

export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === 'class') made.className = value;
    else if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? '' : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

export function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
  svg.setAttribute('aria-hidden', 'true');
  svg.setAttribute('class', 'icon');
  use.setAttribute('href', `#i-${name}`);
  svg.append(use);
  return svg;
}

// A file's name, in a direction of its own.
export const bdi = (text, className) =>
  el('bdi', { class: className, title: shown(text) }, shown(text));

export function button(label, onclick, { class: kind = 'quiet', title } = {}) {
  return el('button', { type: 'button', class: kind, title, onclick }, label);
}

// 7.25 -> 0:07, or 0:07.3 with one digit; 3723 -> 1:02:03
export function clock(seconds, digits = 0) {
  const unit = 10 ** digits;
  const total = Math.round(Math.max(0, seconds) * unit) / unit;
  const [hours, minutes] = [Math.floor(total / 3600), Math.floor(total / 60) % 60];
  const rest = (total % 60).toFixed(digits).padStart(digits ? 3 + digits : 2, '0');
  return hours ? `${hours}:${String(minutes).padStart(2, '0')}:${rest}` : `${minutes}:${rest}`;
}

export function length(seconds) {
  return seconds < 60 ? `${Number(seconds.toFixed(1))} s` : clock(seconds);
}

export function bytes(count) {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
  const step = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, count)) / 10));
  const value = count / 1024 ** step;
  return `${step && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[step]}`;
}

export const counted = (count, one, many = `${one}s`) =>
  `${count.toLocaleString('en')} ${count === 1 ? one : many}`;

export const folderOf = (path) => path.split('/').slice(0, -1).join('/');

// Values between commas or line ends, each once.
export const listed = (text) => [
  ...new Set(
    text
      .split(/[,;\n]/)
      .map((part) => part.trim())
      .filter(Boolean),
  ),
];

// One line of what went wrong, where it went wrong; empty when `error` is null.
export function tellWrong(line, error) {
  line.textContent = error ? shown(error.message ?? error) : '';
  line.hidden = !error;
}

// What a canvas paints with: a colour of the style sheet, as the theme has it now.
const probe = el('span', { hidden: true });
export function colour(name) {
  if (!probe.isConnected) document.body.append(probe);
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

export const SERIES = ['s0', 's1', 's2', 's3', 's4', 's5', 's6', 's7'];
export const seriesOf = (index) => SERIES[index % SERIES.length];
export const calm = matchMedia('(prefers-reduced-motion: reduce)');

// Canvas in device pixels; gives its context in CSS pixels, cleared.
export function sheet(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const ratio = Math.min(3, devicePixelRatio || 1);
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext('2d');
  pen.scale(ratio, ratio);
  return { pen, width, height, ratio };
}
