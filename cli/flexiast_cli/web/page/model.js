// The dialog Model: what listens, and what may take its place. Names are set as text, never as HTML.

const shortName = model => `${model.name} (${model.sha256.slice(0, 8)})`;

export function offerModels(element) {
  let choices = [];

  // False where no model can be swapped: the stream is a recording.
  async function load() {
    const answer = await fetch('model', { cache: 'no-store' });
    if (!answer.ok) return false;
    const { running, before, choices: names } = await answer.json();
    element('running').textContent = `${shortName(running)} listens.`;
    choices = [
      ...names.map(model => [model, { action: 'swap', model }]),
      ...(before ? [[`back to ${shortName(before)}`, { action: 'back' }]] : []),
      ['the same, read again from its path', { action: 'reload' }],
    ];
    element('choice').replaceChildren(...choices.map(([text], place) => new Option(text, place)));
    return true;
  }

  function say(text, tone = '') {
    element('swapped').textContent = text;
    element('swapped').dataset.tone = tone;
  }

  async function swap() {
    const [, request] = choices[element('choice').value];
    element('swap').disabled = true;
    say('It is verified and loaded. The one that listens goes on …');
    try {
      const answer = await fetch('model', { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(request) });
      const text = await answer.text();
      let document = { error: `the server answers ${answer.status}: look here again in a minute` };
      try { document = JSON.parse(text); } catch { /* of a proxy */ }
      say(document.text ?? document.error, document.error ? 'bad' : '');
      await load();
    } catch {
      say('nothing answers: flexiast does not run, or the network is down', 'bad');
    } finally {
      element('swap').disabled = false;
    }
  }

  element('swap').onclick = swap;
  element('model').onclick = async () => {
    say('');
    await load();
    element('models').showModal();
  };
  return async () => { element('model').hidden = !await load().catch(() => false); };
}
