// The microphone, and what a browser must have. What is missing is said in words.

export class MissingError extends Error {}

const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];

// Raises MissingError for what the page cannot do without.
export function checkBrowser() {
  if (!isSecureContext) {
    throw new MissingError(`This address (${location.origin}) is not a secure context, so the browser gives no microphone ` +
      "and no checksums. Serve the page over https, or from localhost.");
  }
  if (!globalThis.WebAssembly?.validate(Uint8Array.from(SIMD))) {
    throw new MissingError("This browser has no WebAssembly with SIMD. Use Chrome 91, Firefox 89, Safari 16.4 or a newer one.");
  }
}

const REFUSALS = {
  NotAllowedError: "The microphone was refused. Allow it in the address bar, or play a file.",
  NotFoundError: "There is no microphone. Plug one in, or play a file.",
  NotReadableError: "The microphone cannot be read: another program may hold it. Close that, or play a file.",
};

// The microphone at the rate of `frontend`; `take` gets blocks of samples.
export async function openMicrophone({ sample_rate_hz: rate }, take) {
  if (!navigator.mediaDevices) throw new MissingError("This browser gives pages no microphone. Play a file.");
  const context = new AudioContext({ sampleRate: rate });
  let media;
  const stop = () => {
    media?.getTracks().forEach((track) => track.stop());
    return context.close();
  };
  try {
    await context.audioWorklet.addModule(new URL("./capture.js", import.meta.url));
    const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
    capture.port.onmessage = ({ data }) => take(data);
    // Last, so that nothing is lost while the rest is made ready. Browsers filter voices by default.
    const plain = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    media = await navigator.mediaDevices.getUserMedia({ audio: plain });
    context.createMediaStreamSource(media).connect(capture);
    await context.resume();
  } catch (error) {
    await stop();
    throw new MissingError(REFUSALS[error.name] ??
      `The microphone cannot be read at ${rate} Hz (${error.message}). Play a file, or use another browser.`);
  }
  return { stop, lost: (then) => media.getTracks().forEach((track) => { track.onended = then; }) };
}

// Level and peak of a block, in dBFS.
export function measureLevel(samples) {
  let power = 0, peak = 0;
  for (const value of samples) {
    power += value * value;
    peak = Math.max(peak, Math.abs(value));
  }
  const decibels = (value) => 20 * Math.log10(Math.max(value, 1e-5));
  return { level_dbfs: decibels(Math.sqrt(power / samples.length)), peak_dbfs: decibels(peak) };
}
