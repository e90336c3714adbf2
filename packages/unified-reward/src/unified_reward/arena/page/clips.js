// Videos that play in step.

const TICK = 50;  // milliseconds

/**
 * Videos on one clock, that of the longest. They start when all can play, wait for each other, and
 * begin again together: a shorter one rests at its end until the longest is through.
 */
export class Clips {
  #videos;
  #onTick;
  #timer;

  constructor(videos, isPlaying, onTick) {
    this.#videos = videos;
    this.#onTick = onTick;
    this.isPlaying = isPlaying;
    this.#timer = setInterval(() => this.#tick(), TICK);
  }

  get duration() {
    return Math.max(0, ...this.#videos.map((video) => video.duration).filter(Number.isFinite));
  }

  get time() {
    return Math.max(0, ...this.#videos.map((video) => video.currentTime));
  }

  toggle() {
    this.isPlaying = !this.isPlaying;
    this.#tick();
  }

  seek(time) {
    for (const video of this.#videos) video.currentTime = Math.min(time, video.duration || 0);
  }

  /** Stop, and let go of the files. */
  close() {
    clearInterval(this.#timer);
    for (const video of this.#videos) {
      video.removeAttribute("src");
      video.load();
    }
  }

  #stop() {
    for (const video of this.#videos) video.pause();
  }

  #tick() {
    const whole = this.#videos.filter((video) => !video.error);
    if (this.isPlaying && whole.length && whole.every((video) => video.ended)) this.seek(0);
    const going = whole.filter((video) => !video.ended);
    const canPlay = going.every((video) => video.readyState >= video.HAVE_FUTURE_DATA && !video.seeking);
    if (!this.isPlaying || !canPlay) this.#stop();
    else {
      this.#align(going);
      for (const video of going) if (video.paused) this.#play(video);
    }
    this.#onTick(this);
  }

  /** Bring videos back in step by their speed, or by a jump where they are far off. */
  #align(going) {
    const lead = going.reduce((a, b) => (b.duration > a.duration ? b : a), going[0]);
    for (const video of going) {
      const behind = Math.min(lead.currentTime, video.duration) - video.currentTime;
      if (Math.abs(behind) > 0.5) video.currentTime += behind;
      video.playbackRate = Math.abs(behind) > 0.02 ? 1 + Math.min(0.25, Math.max(-0.25, 2 * behind)) : 1;
    }
  }

  #play(video) {
    video.play().catch((error) => {
      if (error.name === "NotAllowedError") this.isPlaying = false;  // the browser wants a press first
    });
  }
}
