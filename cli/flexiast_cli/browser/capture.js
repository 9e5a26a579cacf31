// Copies the microphone's samples, a tenth of a second at a time, and does nothing else.

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(Math.round(sampleRate / 10));
    this.filled = 0;
  }

  process([[channel]]) {
    let taken = 0;
    while (channel && taken < channel.length) {
      const part = channel.subarray(taken, taken + this.block.length - this.filled);
      this.block.set(part, this.filled);
      this.filled += part.length;
      taken += part.length;
      if (this.filled === this.block.length) {
        const { length } = this.block;
        this.port.postMessage(this.block, [this.block.buffer]);
        this.block = new Float32Array(length);
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
