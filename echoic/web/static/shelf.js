// "Your sounds": drop, choose or record; what was given, what is on its way, what was refused.
import { $, bdi, button, counted, el, icon, length, shown, tellWrong } from './dom.js';
import { player } from './player.js';
import { sounds } from './sounds.js';
import { playButton, toolButtons } from './tools.js';

const bars = new WeakMap(); // entry -> its progress bar and words

function given(sound) {
  const drop = button(icon('close'), () => takeAway(sound), {
    class: 'icon-button',
    title: 'Remove',
  });
  drop.setAttribute('aria-label', `Remove ${shown(sound.name)}`);
  return el(
    'li',
    { class: 'given' },
    playButton(sound),
    el(
      'div',
      { class: 'given-text' },
      bdi(sound.name, 'name'),
      el('span', { class: 'soft' }, length(sound.duration_s)),
    ),
    drop,
    el('div', { class: 'actions' }, toolButtons(sound)),
  );
}

function onItsWay(entry) {
  if (entry.error) {
    const again = entry.final ? null : button('Try again', () => sounds.again(entry));
    return el(
      'li',
      { class: 'given refused' },
      el('div', { class: 'given-text' }, bdi(entry.name, 'name')),
      el('p', { class: 'wrong', role: 'alert' }, shown(entry.error)),
      el(
        'div',
        { class: 'actions' },
        again,
        button('Dismiss', () => sounds.forget(entry)),
      ),
    );
  }
  const bar = el('progress', {
    max: 1,
    value: entry.progress ?? 0,
    'aria-label': `Sending ${shown(entry.name)}`,
  });
  const words = el('span', { class: 'soft' });
  bars.set(entry, { bar, words });
  progressed(entry);
  return el(
    'li',
    { class: 'given' },
    el('div', { class: 'given-text' }, bdi(entry.name, 'name'), words),
    bar,
  );
}

function progressed(entry) {
  const { bar, words } = bars.get(entry) ?? {};
  if (!bar) return;
  bar.value = entry.progress ?? 0;
  const share = Math.floor(100 * (entry.progress ?? 0));
  if (entry.progress === null) words.textContent = 'waiting';
  else words.textContent = share < 100 ? `${share} %` : 'being read';
}

async function takeAway(sound) {
  if (player.has(sound)) player.stop();
  try {
    await sounds.remove(sound);
    tellWrong($('shelf-wrong'), null);
    $('choose').focus();
  } catch (error) {
    tellWrong($('shelf-wrong'), error);
  }
}

// Rows that stay are left where they are, and keep the focus.
const rows = new Map(); // a sound, or what is on its way in the state it is in -> its row

function show() {
  const wanted = [
    ...sounds.given.map((sound) => [sound, sound, given]),
    ...sounds.sending.map((entry) => [entry, entry.error ?? '', onItsWay]),
  ];
  const before = new Map(rows);
  rows.clear();
  for (const [key, state, make] of wanted) {
    const old = before.get(key);
    const kept = old?.state === state ? old : { state, row: make(key) };
    if (old && old !== kept) old.row.replaceWith(kept.row);
    rows.set(key, kept);
    before.delete(key);
  }
  for (const { row } of before.values()) row.remove();
  for (const { row } of rows.values()) if (!row.isConnected) $('given').append(row);
  $('shelf-empty').hidden = rows.size > 0;
}

function dropAnywhere() {
  let depth = 0; // enter and leave of what is below the pointer come in pairs
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes('Files');
  const veil = (on) => $('veil').toggleAttribute('hidden', !on);
  addEventListener('dragenter', (event) => {
    if (!hasFiles(event)) return;
    depth += 1;
    veil(true);
  });
  addEventListener('dragleave', (event) => {
    if (!hasFiles(event)) return;
    depth = Math.max(0, depth - 1);
    if (!depth) veil(false);
  });
  addEventListener('dragover', (event) => hasFiles(event) && event.preventDefault());
  addEventListener('drop', (event) => {
    depth = 0;
    veil(false);
    if (!event.dataTransfer?.files.length) return;
    event.preventDefault();
    sounds.add(event.dataTransfer.files);
  });
}

export function showShelf() {
  const chooser = $('files');
  chooser.addEventListener('change', () => {
    sounds.add(chooser.files);
    chooser.value = '';
  });
  $('choose').addEventListener('click', () => chooser.click());
  sounds.addEventListener('change', show);
  sounds.addEventListener('progress', (event) => progressed(event.detail));
  sounds.addEventListener('added', (event) => {
    $('heard').textContent =
      `${shown(event.detail.name)} is ready: ${counted(sounds.given.length, 'sound')} of yours`;
  });
  dropAnywhere();
  show();
}
