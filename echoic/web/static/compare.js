// Compare: two sounds, their cosine, their waveforms.
import { named, post, same } from './api.js';
import { $, bdi, el, length, tellWrong } from './dom.js';
import { Picker, playButton } from './tools.js';
import { Wave } from './wave.js';

let pickers; // of a and of b

async function compare() {
  const [a, b] = pickers.map((picker) => picker.sound);
  if (!a || !b) return tellWrong($('compare-wrong'), 'Choose two sounds.');
  tellWrong($('compare-wrong'), null);
  $('compare-go').disabled = true;
  $('compare-told').textContent = 'Listening to both…';
  try {
    const answer = await post('/api/compare', { a: named(a), b: named(b) });
    showBoth(a, b, answer);
    $('heard').textContent = `cosine ${signed(answer.cosine)}`;
  } catch (error) {
    tellWrong($('compare-wrong'), error);
  }
  $('compare-told').textContent = '';
  $('compare-go').disabled = false;
  return undefined;
}

const signed = (cosine) => cosine.toFixed(3).replace('-', '−');

function showBoth(a, b, { cosine }) {
  const mark = el('i');
  mark.style.setProperty('--at', (Math.max(-1, Math.min(1, cosine)) + 1) / 2);
  const scale = el(
    'div',
    { class: 'scale', 'aria-hidden': 'true' },
    mark,
    el('span', {}, 'opposite'),
    el('span', {}, 'nothing in common'),
    el('span', {}, 'the same'),
  );
  const both = [a, b].map((sound) =>
    el(
      'div',
      { class: 'one' },
      el(
        'div',
        { class: 'one-head' },
        playButton(sound),
        bdi(sound.name, 'name'),
        el('span', { class: 'soft' }, length(sound.duration_s)),
      ),
      new Wave(sound, { points: 800, byKeyboard: true }).element,
    ),
  );
  $('comparison').replaceChildren(
    el(
      'p',
      { class: 'cosine' },
      el('b', {}, signed(cosine)),
      el('span', {}, ' cosine'),
    ),
    scale,
    ...both,
  );
}

export const compareView = {
  start() {
    pickers = ['a', 'b'].map((side) => {
      const picker = new Picker($(`compare-${side}`), 'choose a sound');
      picker.addButton(`compare-add-${side}`);
      return picker;
    });
    $('compare-form').addEventListener('submit', (event) => {
      event.preventDefault();
      compare();
    });
  },

  // The first empty place, else the second; both there: compared at once.
  use(sound) {
    const [a, b] = pickers;
    const place = a.sound && !same(a.sound, sound) ? b : a;
    place.pick(sound);
    if (a.sound && b.sound) compare();
    else (a.sound ? b : a).select.focus();
  },
};
