// The one player of the page. Events: 'change' (what plays, or whether), 'tick' (where it is).
import { address, same, whyNot } from './api.js';
import { $, calm, clock, shown, tellWrong } from './dom.js';

class Player extends EventTarget {
  #audio = new Audio();
  sound = null;

  constructor() {
    super();
    this.#audio.preload = 'auto';
    for (const kind of ['play', 'pause', 'ended']) {
      this.#audio.addEventListener(kind, () => this.#tell('change'));
    }
    for (const kind of ['timeupdate', 'seeked', 'loadedmetadata']) {
      this.#audio.addEventListener(kind, () => this.#tell('tick'));
    }
    this.#audio.addEventListener('play', () => this.#follow());
    this.#audio.addEventListener('error', () => this.#failed());
  }

  get playing() {
    const { paused, ended, error } = this.#audio; // one that failed is not paused
    return Boolean(this.sound) && !paused && !ended && !error;
  }

  get time_s() {
    return this.#audio.currentTime;
  }

  get duration_s() {
    const heard = this.#audio.duration;
    return Number.isFinite(heard) ? heard : (this.sound?.duration_s ?? 0);
  }

  isPlaying(sound) {
    return this.playing && same(sound, this.sound);
  }

  has(sound) {
    return same(sound, this.sound);
  }

  play(sound, from_s = null) {
    tellWrong($('player-wrong'), null);
    if (!this.has(sound) || this.#audio.error) {
      this.sound = sound;
      this.#audio.src = address(sound, 'audio');
      this.#audio.currentTime = from_s ?? 0;
    } else if (from_s !== null) {
      this.#audio.currentTime = from_s;
    }
    // Refused while another begins to load: that one tells of itself; a real failure is an 'error'.
    this.#audio.play().catch(() => this.#tell('change'));
    this.#tell('change');
  }

  toggle(sound = this.sound) {
    if (!sound) return;
    if (this.isPlaying(sound)) this.#audio.pause();
    else this.play(sound);
  }

  seek(time_s) {
    this.#audio.currentTime = Math.max(0, Math.min(this.duration_s, time_s));
    this.#tell('tick');
  }

  stop() {
    if (!this.sound) return;
    this.#audio.pause();
    this.sound = null;
    this.#audio.removeAttribute('src');
    this.#audio.load();
    this.#tell('change');
  }

  #tell(kind) {
    this.dispatchEvent(new Event(kind));
  }

  #follow() {
    if (calm.matches || !this.playing) return; // 'timeupdate' is enough then
    this.#tell('tick');
    requestAnimationFrame(() => this.#follow());
  }

  async #failed() {
    const { sound } = this;
    if (!sound || !this.#audio.getAttribute('src')) return;
    const why = await whyNot(address(sound, 'audio'));
    if (!this.has(sound)) return;
    tellWrong($('player-wrong'), `${sound.name} does not play. ${why.message}`);
    this.#tell('change');
  }
}

export const player = new Player();

export function showPlayer() {
  const [bar, seek, toggle] = [$('player'), $('player-seek'), $('player-toggle')];
  const name = $('player-name');
  let told = null;

  function change() {
    const { sound } = player;
    bar.hidden = !sound;
    document.body.classList.toggle('with-player', Boolean(sound));
    if (!sound) {
      told = null;
      return;
    }
    name.textContent = name.title = shown(sound.name);
    toggle.classList.toggle('is-playing', player.playing);
    toggle.setAttribute('aria-label', `${player.playing ? 'Pause' : 'Play'} ${shown(sound.name)}`);
    if (player.playing && !same(told, sound)) {
      told = sound;
      $('heard').textContent = `Playing ${shown(sound.name)}`;
    }
    tick();
  }

  function tick() {
    const duration_s = player.duration_s || 1;
    seek.max = duration_s;
    seek.value = player.time_s;
    seek.style.setProperty('--done', `${(100 * player.time_s) / duration_s}%`);
    const now = `${clock(player.time_s)} / ${clock(player.duration_s)}`;
    seek.setAttribute('aria-valuetext', now.replace('/', 'of'));
    $('player-time').textContent = now;
  }

  player.addEventListener('change', change);
  player.addEventListener('tick', tick);
  seek.addEventListener('input', () => player.seek(Number(seek.value)));
  toggle.addEventListener('click', () => player.toggle());
  $('player-stop').addEventListener('click', () => player.stop());
}
