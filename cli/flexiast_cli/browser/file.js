// A sound file: read, checked before any of it is heard, then played in real time.

import { seconds } from "./words.js";
import { MissingError } from "./sound.js";

// 24 dB above full scale: no recorder writes it, integers that were stored as floats reach it at once.
const LOUDEST = 16;

// Mono at the rate of `frontend`; `take` gets blocks of samples, and `end` is called after the last.
export async function playFile(file, frontend, take, end) {
  const rate = frontend.sample_rate_hz, decoded = await decode(file, rate);
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, index) => decoded.getChannelData(index));
  for (const channel of channels) checkSamples(file.name, channel, rate);
  if (decoded.length < frontend.taper_samples) {
    const shortest = seconds(frontend.taper_samples / rate);
    throw new MissingError(`${file.name} is too short: it lasts ${seconds(decoded.length / rate)}, and the model needs ${shortest}.`);
  }
  const samples = channels[0].map((_, index) => channels.reduce((sum, channel) => sum + channel[index], 0) / channels.length);
  const speaker = playAloud(decoded), began = performance.now();
  let sent = 0;
  const timer = setInterval(() => {
    const due = Math.min(Math.floor(((performance.now() - began) / 1000) * rate), samples.length);
    if (due > sent) take(samples.slice(sent, due));
    sent = due;
    if (sent < samples.length) return;
    clearInterval(timer);
    end();
  }, 100);
  return {
    stop() {
      clearInterval(timer);
      return speaker.close();
    },
    lost() {},
  };
}

async function decode(file, rate) {
  const content = await file.arrayBuffer();
  if (!content.byteLength) throw new MissingError(`${file.name} is empty. Record or copy it again.`);
  if (isEmptyWav(new DataView(content))) throw new MissingError(`${file.name} holds no samples. Record it again.`);
  try {
    return await new OfflineAudioContext(1, 1, rate).decodeAudioData(content);
  } catch {
    throw new MissingError(`${file.name} cannot be read as sound: it is damaged, holds no samples, or is of a kind that this ` +
      "browser does not know. All browsers know WAV and MP3.");
  }
}

// Browsers refuse a WAV without samples as they refuse what is no sound.
function isEmptyWav(view) {
  const nameAt = (place) => String.fromCharCode(...new Uint8Array(view.buffer, place, 4));
  if (view.byteLength < 12 || nameAt(0) !== "RIFF" || nameAt(8) !== "WAVE") return false;
  let place = 12;
  while (place + 8 <= view.byteLength && nameAt(place) !== "data") {
    const size = view.getUint32(place + 4, true);
    place += 8 + size + (size % 2);
  }
  return place + 8 >= view.byteLength;
}

// As `flexiast classify` does: one sample that is no number would make every score around it none.
function checkSamples(name, channel, rate) {
  const invalid = channel.findIndex((value) => !Number.isFinite(value));
  if (invalid >= 0) {
    throw new MissingError(`${name} holds samples that are not numbers (NaN or infinite), the first at ` +
      `${seconds(invalid / rate)}. Export it again.`);
  }
  const peak = channel.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  if (peak > LOUDEST) {
    throw new MissingError(`${name} has samples up to ${peak < 1e6 ? Math.round(peak).toLocaleString("en") : peak.toExponential(1)}, expected −1 … 1: integers stored as floats? ` +
      "Export it again.");
  }
}

function playAloud(decoded) {
  const context = new AudioContext(), source = context.createBufferSource();
  source.buffer = decoded;
  source.connect(context.destination);
  source.start();
  return context;
}
