// One hit: play it, what is known of it, its waveform with the moments that were found, its score.
import { bdi, button, clock, el, folderOf, length, shown } from './dom.js';
import { player } from './player.js';
import { playButton, toolButtons } from './tools.js';
import { stepKeys, Wave } from './wave.js';

const WHOLE = 0.95; // a moment as long as that share of its recording marks nothing
const TAGS = 5; // shown at first

// filterBy(field, value): a click on a folder or a tag.
export function hitRow(hit, filterBy) {
  const sound = { kind: 'file', id: hit.id, name: hit.name, duration_s: hit.duration_s };
  const marks = hit.moments.filter((m) => m.end_s - m.start_s < WHOLE * hit.duration_s);
  const play = playButton(sound);
  const wave = new Wave(sound, { marks });
  const made = el(
    'li',
    { class: 'hit' },
    play,
    el('div', { class: 'hit-text' }, el('h3', {}, bdi(hit.name, 'name')), about(hit, filterBy)),
    el('div', { class: 'hit-wave' }, wave.element, moments(sound, marks)),
    score(hit.score),
    el('div', { class: 'actions' }, toolButtons(sound)),
  );
  play.addEventListener('keydown', (event) => {
    if (event.key === 'ArrowLeft' || event.key === 'ArrowRight') stepKeys(event, sound);
  });
  return made;
}

function score(value) {
  if (value === null || value === undefined) return el('span', { class: 'score' });
  const bar = el('i');
  bar.style.setProperty('--share', `${Math.max(0, Math.min(1, value)) * 100}%`);
  const said = `cosine ${value.toFixed(3)} with what was asked`;
  return el(
    'span',
    { class: 'score', title: said },
    el('span', { class: 'unseen' }, 'score '),
    value.toFixed(2),
    bar,
  );
}

function about(hit, filterBy) {
  const folder = folderOf(hit.path);
  const only = folder
    ? button(bdi(folder), () => filterBy('folder', folder), {
        class: 'link',
        title: `Only below ${shown(folder)}`,
      })
    : null;
  const facts = [length(hit.duration_s), hit.format].filter(Boolean).map(shown).join(' · ');
  return [
    el('p', { class: 'facts' }, only, el('span', {}, facts)),
    hit.caption ? el('p', { class: 'caption' }, bdi(hit.caption)) : null,
    hit.tags.length ? tagLine(hit.tags, filterBy) : null,
  ];
}

function tagLine(tags, filterBy) {
  const made = tags.map((tag) =>
    button(bdi(tag), () => filterBy('tags', tag), {
      class: 'tag',
      title: 'Only sounds with this tag',
    }),
  );
  const line = el('p', { class: 'tags' }, made.slice(0, TAGS));
  if (made.length > TAGS) {
    const more = button(
      `${made.length - TAGS} more`,
      () => {
        more.replaceWith(...made.slice(TAGS));
        made[TAGS].focus();
      },
      { class: 'quiet' },
    );
    more.setAttribute('aria-label', `${made.length - TAGS} more tags`);
    line.append(more);
  }
  return line;
}

function moments(sound, marks) {
  if (!marks.length) return null;
  const ordered = [...marks].sort((a, b) => a.start_s - b.start_s);
  const best = marks[0];
  const chips = ordered.map((moment) => {
    const made = button(clock(moment.start_s), () => player.play(sound, moment.start_s), {
      class: moment === best ? 'moment best' : 'moment',
      title: `${clock(moment.start_s)} to ${clock(moment.end_s)}`,
    });
    made.setAttribute('aria-label', `Play ${shown(sound.name)} from ${clock(moment.start_s)}`);
    return made;
  });
  return el('div', { class: 'moments' }, chips);
}
