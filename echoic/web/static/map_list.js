// The map in words: each sound, its folder, and which one lies nearest.
import { $, button, counted, el, shown } from './dom.js';
import { player } from './player.js';

const LISTED = 200;

const distance = (a, b) => Math.hypot(a.u - b.u, a.v - b.v);

function nearest(point, points) {
  let [best, least] = [null, Infinity];
  for (const other of points) {
    const far = distance(point, other);
    if (other !== point && far < least) [best, least] = [other, far];
  }
  return best;
}

function line(point, points) {
  const like = nearest(point, points);
  const play = () => player.play(point, 0);
  return el(
    'tr',
    {},
    el('td', { class: 't' }, button(el('bdi', {}, shown(point.name)), play, { class: 'link' })),
    el('td', { class: 't' }, el('bdi', {}, point.folder)),
    el('td', { class: 't' }, el('bdi', {}, like ? shown(like.name) : '')),
  );
}

// Those whose name or folder holds what was typed.
export function showList(points) {
  const words = $('map-find').value.trim().toLowerCase();
  const found = points
    .filter(({ name, folder }) => `${folder}/${name}`.toLowerCase().includes(words))
    .sort((a, b) => a.folder.localeCompare(b.folder) || a.name.localeCompare(b.name));
  $('map-rows').replaceChildren(...found.slice(0, LISTED).map((point) => line(point, points)));
  $('map-list-told').textContent =
    found.length > LISTED
      ? `The first ${LISTED} of ${found.length}: type to narrow them down.`
      : counted(found.length, 'sound');
}
