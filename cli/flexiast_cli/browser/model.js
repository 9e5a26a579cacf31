// A bundle: its manifest, its files checked by sha256, and its graphs in ONNX Runtime Web.

export class BundleError extends Error {}

// `read(name)` gives the bytes of a file of the bundle, in the browser as in Node.
export class Bundle {
  constructor(manifest, read) {
    this.manifest = manifest;
    this.read = read;
  }

  static async open(read) {
    let manifest;
    try {
      manifest = JSON.parse(new TextDecoder().decode(await read("manifest.json")));
    } catch (error) {
      throw new BundleError(`The bundle's manifest.json cannot be read (${error.message}). Export the page again.`);
    }
    if (manifest.schema_version !== "1.0") {
      throw new BundleError(`The bundle has schema ${manifest.schema_version}, this page reads 1.0. Export the page again.`);
    }
    if (!manifest.frontend) {
      throw new BundleError("The bundle is from before frontend.onnx. Add it: flexiast export BUNDLE. Then export the page.");
    }
    return new Bundle(manifest, read);
  }

  // The bytes of a listed file; an error for one that is not what was exported.
  async verifiedBytes(name) {
    const entry = this.manifest.files.find((file) => file.name === name);
    const content = await this.read(name);
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
    const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (found !== entry?.sha256) {
      throw new BundleError(`${name} differs from what was exported: sha256 ${found.slice(0, 16)}…, ` +
        `expected ${entry?.sha256.slice(0, 16)}…. Copy the page again.`);
    }
    return content;
  }
}

export class Model {
  // `ort` is ONNX Runtime Web. Loads the embedder of every size, in the bundle's first precision.
  static async load(ort, bundle) {
    const model = new Model();
    const { manifest } = bundle, [precision] = Object.keys(manifest.encoders);
    Object.assign(model, { ort, manifest, spec: manifest.spec, variants: new Map(), embedders: new Map() });
    const load = async (name) => ort.InferenceSession.create(new Uint8Array(await bundle.verifiedBytes(name)));
    model.frontend = await load(manifest.frontend);
    model.encoder = await load(manifest.encoders[precision].file);
    for (const variant of manifest.variants.filter((each) => each.precision === precision)) {
      model.variants.set(variant.patch_size, variant);
      model.embedders.set(variant.patch_size, await load(variant.embedder));
    }
    return model;
  }

  get labels() {
    return this.spec.labels;
  }

  get classes() {
    return this.labels.length + Number(this.spec.nothing_class ?? false);
  }

  // Samples → features of their whole frames [frames · mels].
  async features(samples) {
    const input = new this.ort.Tensor("float32", samples, [1, samples.length]);
    const { features } = await this.frontend.run({ samples: input });
    return features.data;
  }

  // Features of one window → logits [classes].
  async logits(features, patch) {
    const bins = this.spec.frontend.mel_bins;
    const input = new this.ort.Tensor("float32", features, [1, features.length / bins, bins]);
    const { tokens } = await this.embedders.get(patch).run({ features: input });
    const { logits } = await this.encoder.run({ tokens });
    return logits.data;
  }

  // Logits → scores of the labels in [0, 1].
  scores(logits, patch) {
    const temperature = Math.fround(this.variants.get(patch).temperature ?? 1);
    const scaled = Array.from(logits, (logit) => Math.fround(logit / temperature));
    let scores;
    if (this.spec.task === "multi") scores = scaled.map((logit) => 1 / (1 + Math.exp(-Math.max(-80, Math.min(80, logit)))));
    else {
      const largest = Math.max(...scaled), powers = scaled.map((logit) => Math.exp(logit - largest));
      const sum = powers.reduce((total, power) => total + power, 0);
      scores = powers.map((power) => power / sum);
    }
    return Float32Array.from(scores.slice(0, this.labels.length));
  }

  // The score of each label at which its events begin at this size.
  thresholds(patch) {
    const own = { ...this.manifest.thresholds, ...this.variants.get(patch).thresholds };
    return Float32Array.from(this.labels, (label) => own[label] ?? 0.5);
  }
}
