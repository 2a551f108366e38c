// Search: words, words not wanted, an example sound, filters; the hits and where in them.
import { named, post } from './api.js';
import { $, button, counted, el, listed, tellWrong } from './dom.js';
import { hitRow } from './hits.js';
import { Picker } from './tools.js';

const FILTERS = {
  folder: 'folder',
  formats: 'formats',
  tags: 'tags',
  shortest_s: 'shortest',
  longest_s: 'longest',
  after: 'after',
  before: 'before',
};

let picker;
let asked = null; // AbortController of the search under way
let ready = false; // is there an index?

function filters() {
  const found = {};
  for (const [key, id] of Object.entries(FILTERS)) {
    const value = $(id).value.trim();
    if (!value) continue;
    if (key === 'formats' || key === 'tags') found[key] = listed(value);
    else if (key.endsWith('_s')) found[key] = Number(value);
    else found[key] = value;
  }
  return found;
}

function question() {
  const text = $('words').value.trim();
  const without = listed($('without').value);
  const { sound } = picker;
  const body = { ...filters(), top: Number($('top').value) };
  if (text) body.text = text;
  if (without.length) body.without = without;
  if (sound) Object.assign(body, named(sound));
  if (text && sound) {
    const share = Number($('balance').value) / 100;
    body.text_weight = Number((2 * (1 - share)).toFixed(2));
    body.sound_weight = Number((2 * share).toFixed(2));
  }
  return body;
}

function countFilters() {
  const count = Object.keys(filters()).length;
  $('filter-count').textContent = count ? counted(count, 'filter') : 'Filters';
  $('clear-filters').hidden = !count;
}

function weigh() {
  const share = Number($('balance').value);
  $('balance-box').hidden = !(picker.sound && $('words').value.trim());
  const text = `words ${100 - share} %, sound ${share} %`;
  $('balance-told').textContent = text;
  $('balance').setAttribute('aria-valuetext', text);
}

async function search() {
  const body = question();
  if (!body.text && !body.sound && !body.file) {
    tellWrong($('search-wrong'), 'Type what you look for, or choose a sound that is like it.');
    $('words').focus();
    return;
  }
  asked?.abort();
  const mine = (asked = new AbortController());
  tellWrong($('search-wrong'), null);
  busy(true);
  try {
    const answer = await post('/api/search', body, mine.signal);
    if (mine === asked) showHits(answer, body);
  } catch (error) {
    if (error.name === 'AbortError') return;
    tellWrong($('search-wrong'), error);
    $('search-told').textContent = $('hits').childElementCount
      ? 'The hits below are of the search before.'
      : '';
  }
  if (mine === asked) busy(false);
}

function busy(on) {
  $('hits').setAttribute('aria-busy', String(on));
  $('search-go').classList.toggle('is-busy', on);
  if (on) $('search-told').textContent = 'Searching…';
}

function showHits({ hits, took_ms }, body) {
  $('suggestions').hidden = true;
  const among = Object.keys(filters()).length ? ' that the filters let through' : '';
  const what = body.text ? `“${body.text}”` : 'that sound';
  const count = `${counted(hits.length, 'sound')}${among}`;
  $('search-told').textContent = hits.length
    ? `${count}, the best for ${what} first · ${Math.max(1, Math.round(took_ms))} ms`
    : 'Nothing found: the filters let no sound through.';
  $('hits').replaceChildren(...hits.map((hit) => hitRow(hit, filterBy)));
}

function filterBy(id, value) {
  const field = $(id);
  field.value = id === 'tags' ? listed(`${field.value},${value}`).join(', ') : value;
  $('filters').open = true;
  countFilters();
  search();
}

function clearFilters() {
  for (const id of Object.values(FILTERS)) $(id).value = '';
  countFilters();
  $('words').focus();
}

// Up and down through the hits, from wherever in a hit the focus is; down from the words too.
function arrows(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
  const buttons = [...document.querySelectorAll('#hits .play')];
  const inside = event.target.closest('.hit');
  const at = inside ? buttons.indexOf(inside.querySelector('.play')) : -1;
  if (!buttons.length || (at < 0 && (event.target !== $('words') || step < 0))) return;
  event.preventDefault();
  if (at + step < 0) $('words').focus();
  else {
    const next = buttons[Math.min(buttons.length - 1, at + step)];
    next.focus({ preventScroll: true });
    next.closest('.hit').scrollIntoView({ block: 'nearest' });
  }
}

function suggest(captions) {
  const examples = [
    'rain on a tin roof',
    'a dog barks far away',
    'footsteps on gravel',
    'a bell rings twice',
  ];
  $('suggestions').append(
    el('p', {}, 'Say it as you would tell somebody. For example:'),
    el(
      'p',
      { class: 'examples' },
      examples.map((words) =>
        button(
          words,
          () => {
            $('words').value = words;
            search();
          },
          { class: 'example' },
        ),
      ),
    ),
    el(
      'p',
      { class: 'soft' },
      captions
        ? 'A sound is found by what is heard in it, and by the captions written for it.'
        : 'A sound is found by what is heard in it: names and tags need not say it.',
    ),
  );
}

export const searchView = {
  start(info) {
    picker = new Picker($('like'), 'no sound');
    ready = Boolean(info.index);
    $('search-form').addEventListener('submit', (event) => {
      event.preventDefault();
      search();
    });
    $('search-form').addEventListener('input', () => {
      countFilters();
      weigh();
    });
    picker.addEventListener('change', weigh);
    $('clear-filters').addEventListener('click', clearFilters);
    document.addEventListener('keydown', arrows);
    if (!ready) {
      for (const field of $('search-form').elements) field.disabled = true;
      $('no-index').hidden = false;
      return;
    }
    if (!info.model.words) {
      for (const id of ['words', 'without']) $(id).disabled = true;
      $('words').placeholder = 'this model knows no words: search by a sound';
    }
    if (info.model.words) suggest(info.index.captions);
  },

  use(sound) {
    $('words').value = '';
    picker.pick(sound);
    if (ready) search();
  },

  focus() {
    $('words').focus();
    $('words').select();
  },
};
