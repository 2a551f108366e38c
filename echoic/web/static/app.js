// The page: which tool is shown, what the server is, keys that work everywhere.
import { get } from './api.js';
import { captionsView } from './captions.js';
import { compareView } from './compare.js';
import { $, counted, shown, tellWrong } from './dom.js';
import { mapView } from './map.js';
import { tagView } from './over_time.js';
import { player, showPlayer } from './player.js';
import { showRecorder } from './recorder.js';
import { searchView } from './search.js';
import { showShelf } from './shelf.js';
import { sounds } from './sounds.js';

const VIEWS = {
  search: searchView,
  tag: tagView,
  captions: captionsView,
  compare: compareView,
  map: mapView,
};
const TITLES = {
  search: 'Search',
  tag: 'Tag over time',
  captions: 'Captions',
  compare: 'Compare',
  map: 'Map',
};

const named = () => location.hash.slice(1);

function route({ focus = true } = {}) {
  const name = Object.hasOwn(VIEWS, named()) ? named() : 'search';
  for (const each of Object.keys(VIEWS)) {
    $(`view-${each}`).hidden = each !== name;
    const link = document.querySelector(`nav a[href="#${each}"]`);
    if (each === name) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  document.title = `${TITLES[name]} · echoic`;
  if (focus) document.querySelector(`#view-${name} h2`).focus({ preventScroll: true });
  scrollTo(0, 0);
  VIEWS[name].show?.();
}

function go(name) {
  if (location.hash === `#${name}` || (!location.hash && name === 'search')) return;
  history.pushState(null, '', `#${name}`);
  route();
}

const hours = (long) =>
  long < 1 ? `${Math.max(1, Math.round(60 * long))} min` : `${long.toFixed(1)} h`;

function describe({ model, index, version }) {
  $('about').textContent = index
    ? `${shown(index.name)}: ${counted(index.files, 'sound')}, ${hours(index.hours)}`
    : 'no index';
  $('about').title = `model ${shown(model.name)}`;
  $('version').textContent = `echoic ${version} · model ${shown(model.name)}`;
}

const typing = (target) =>
  target.isContentEditable ||
  target.matches('textarea, select, input:not([type=range], [type=checkbox])');
const pressable = (target) => target.matches('button, a, summary, input, canvas, [role=slider]');

function keys(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === 'Escape') {
    if (!$('keys').open) player.stop();
    return;
  }
  if (typing(event.target) || $('keys').open) return;
  if (event.key === '/') {
    event.preventDefault();
    go('search');
    searchView.focus();
  } else if (event.key === '?') $('keys').showModal();
  else if (event.key === ' ' && player.sound && !pressable(event.target)) {
    event.preventDefault();
    player.toggle();
  }
}

async function start() {
  showPlayer();
  showShelf();
  showRecorder();
  document.addEventListener('keydown', keys);
  for (const id of ['help', 'help-too'])
    $(id).addEventListener('click', () => $('keys').showModal());
  document.querySelector('.skip').addEventListener('click', (event) => {
    event.preventDefault(); // an address of its own would be that of another tool
    document.querySelector('main > section:not([hidden]) h2').focus();
  });
  $('keys-close').addEventListener('click', () => $('keys').close());
  $('retry').addEventListener('click', () => location.reload());
  try {
    const info = await get('/api/info');
    sounds.limits = info.limits;
    describe(info);
    document.body.classList.toggle('no-captions', !info.model.captions);
    document.body.classList.toggle('no-index', !info.index);
    for (const view of Object.values(VIEWS)) view.start(info);
    await sounds.load();
  } catch (error) {
    tellWrong($('start-wrong'), `The page could not start. ${error.message}`);
    $('retry').hidden = false;
    return;
  }
  addEventListener('hashchange', () => route());
  addEventListener('echoic-use', ({ detail: { tool, sound } }) => {
    go(tool);
    VIEWS[tool].use(sound);
  });
  route({ focus: false });
  document.body.classList.add('is-ready');
  const onSearch = !location.hash || location.hash === '#search';
  if (onSearch && matchMedia('(hover: hover)').matches) $('words').focus({ preventScroll: true });
}

start();
