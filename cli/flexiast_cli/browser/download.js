// Files of the page, counted as they come.

// `count` gets the bytes of each part that has arrived.
export async function download(path, count) {
  try {
    const answer = await fetch(new URL(`./${path}`, import.meta.url));
    if (!answer.ok) throw new Error(`${path} is missing (${answer.status}). Copy the whole page again.`);
    const parts = [];
    for (const reader = answer.body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) return new Blob(parts).arrayBuffer();
      parts.push(value);
      count(value.length);
    }
  } catch (error) {
    // What fetch and read throw when the network breaks.
    throw error instanceof TypeError ? new Error(`${path} did not arrive (${error.message}). Load the page again.`) : error;
  }
}
