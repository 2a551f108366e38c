// What stands beside a sound wherever one is shown: play it, hand it to a tool, pick one.
import { $, button, el, icon, shown } from './dom.js';
import { player } from './player.js';
import { keyOf, sounds } from './sounds.js';

const TOOLS = [
  ['search', 'More like this'],
  ['tag', 'Tag'],
  ['captions', 'Caption'],
  ['compare', 'Compare'],
];
const NAME_CHARACTERS = 60;

// Told to app.js, which shows the tool and gives it the sound.
export const toolButtons = (sound) =>
  TOOLS.map(([tool, label]) => {
    const use = () => {
      sounds.use(sound);
      dispatchEvent(new CustomEvent('echoic-use', { detail: { tool, sound } }));
    };
    const made = button(label, use);
    made.setAttribute('aria-label', `${label}: ${shown(sound.name)}`);
    made.dataset.tool = tool;
    return made;
  });

const heardBy = new WeakMap(); // a play button -> its sound

export function playButton(sound) {
  const made = el('button', { type: 'button', class: 'play', onclick: () => player.toggle(sound) });
  made.append(icon('play'), icon('pause'));
  heardBy.set(made, sound);
  tell(made);
  return made;
}

function tell(made) {
  const sound = heardBy.get(made);
  const playing = player.isPlaying(sound);
  made.classList.toggle('is-playing', playing);
  made.setAttribute('aria-label', `${playing ? 'Pause' : 'Play'} ${shown(sound.name)}`);
  made.closest('li')?.classList.toggle('is-current', player.has(sound));
}

player.addEventListener('change', () => {
  for (const made of document.querySelectorAll('button.play')) if (heardBy.has(made)) tell(made);
});

// A choice among the sounds at hand. none: what stands where none is chosen.
export class Picker extends EventTarget {
  static asking = null; // the one whose button opened the choice of files

  constructor(select, none) {
    super();
    this.select = select;
    this.none = none;
    select.addEventListener('change', () => this.dispatchEvent(new Event('change')));
    for (const kind of ['change', 'files']) sounds.addEventListener(kind, () => this.#fill());
    sounds.addEventListener('added', (event) => this.#added(event));
    $('files').addEventListener('cancel', () => (Picker.asking = null));
    this.#fill();
  }

  get sound() {
    return sounds.find(this.select.value);
  }

  pick(sound) {
    this.#fill();
    this.select.value = sound ? keyOf(sound) : '';
    this.dispatchEvent(new Event('change'));
  }

  // A button that takes a file and chooses it here.
  addButton(id) {
    $(id).addEventListener('click', () => {
      Picker.asking = this;
      $('files').click();
    });
  }

  // A new sound goes to who asked for it, else to the first place in view that is empty.
  #added(event) {
    const empty = this.select.offsetParent !== null && !this.sound;
    const open = empty && this.select.dataset.takesNew !== undefined;
    if (event.defaultPrevented || !(Picker.asking ? Picker.asking === this : open)) return;
    event.preventDefault();
    Picker.asking = null;
    this.pick(event.detail);
  }

  #fill() {
    const chosen = this.select.value;
    const option = (sound) =>
      el('option', { value: keyOf(sound) }, shown(sound.name).slice(0, NAME_CHARACTERS));
    const groups = [
      ['Your sounds', sounds.given],
      ['Of the index', sounds.files],
    ].filter(([, held]) => held.length);
    this.select.replaceChildren(
      el('option', { value: '' }, this.none),
      ...groups.map(([label, held]) => el('optgroup', { label }, held.map(option))),
    );
    this.select.value = sounds.find(chosen) ? chosen : '';
    if (chosen && !this.select.value) this.dispatchEvent(new Event('change'));
  }
}
