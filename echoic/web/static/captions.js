// Captions: what is heard, in words, and when.
import { named, post } from './api.js';
import { $, button, clock, el, icon, shown, tellWrong } from './dom.js';
import { player } from './player.js';
import { Picker } from './tools.js';
import { Wave } from './wave.js';

let picker;

async function caption() {
  const { sound } = picker;
  if (!sound) return tellWrong($('caption-wrong'), 'Choose a sound first, or add one.');
  tellWrong($('caption-wrong'), null);
  busy(true);
  try {
    const answer = await post('/api/caption', named(sound));
    showCaption(sound, answer);
    $('heard').textContent = shown(answer.text) || 'No words were found for it.';
    $('caption-told').textContent = '';
  } catch (error) {
    tellWrong($('caption-wrong'), error);
    $('caption-told').textContent = '';
  }
  return busy(false);
}

function busy(on) {
  $('caption-go').classList.toggle('is-busy', on);
  $('caption-go').disabled = on;
  if (on) $('caption-told').textContent = 'Listening, and looking for words…';
}

function showCaption(sound, { text, spans }) {
  const wave = new Wave(sound, { points: 800, byKeyboard: true });
  const lines = spans.map((span) => {
    const made = button(
      [icon('play'), `${clock(span.start_s)} – ${clock(span.end_s)}`].flat(),
      () => player.play(sound, span.start_s),
      { class: 'time' },
    );
    made.setAttribute('aria-label', `Play from ${clock(span.start_s)}`);
    return el('li', {}, made, el('bdi', {}, shown(span.text)));
  });
  $('caption').replaceChildren(
    el('p', { class: 'name-line' }, el('bdi', { class: 'name' }, shown(sound.name))),
    wave.element,
    el('blockquote', {}, el('bdi', {}, shown(text) || 'No words were found for it.')),
    spans.length > 1 ? el('ol', { class: 'captions' }, lines) : '',
  );
}

export const captionsView = {
  start(info) {
    picker = new Picker($('caption-sound'), 'choose a sound');
    picker.addButton('caption-add');
    $('caption-form').addEventListener('submit', (event) => {
      event.preventDefault();
      caption();
    });
    if (info.model.captions) return;
    $('no-captions').hidden = false;
    $('caption-go').disabled = true;
  },

  use(sound) {
    picker.pick(sound);
    if (!$('caption-go').disabled) caption();
  },
};
