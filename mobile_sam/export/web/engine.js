// The worker as functions that promise an answer.

export class Engine {
  /** progress: called with the share of the model's bytes that have come. */
  constructor(progress) {
    this.waiting = new Map();
    this.number = 0;
    this.worker = new Worker(guarded("./worker.js"), { type: "module" });
    this.worker.onmessage = ({ data }) => {
      if ("progress" in data) progress(data.progress);
      else this.settle(data);
    };
    this.worker.onerror = (event) => {
      const error = `The model's worker ended: ${event.message ?? "its script cannot be read"}.`;
      for (const number of [...this.waiting.keys()]) this.settle({ number, error });
    };
  }

  settle({ number, value, error }) {
    const { resolve, reject } = this.waiting.get(number);
    this.waiting.delete(number);
    if (error === undefined) resolve(value);
    else reject(new Error(error));
  }

  call(call, values, transferred = []) {
    return new Promise((resolve, reject) => {
      this.waiting.set(++this.number, { resolve, reject });
      this.worker.postMessage({ number: this.number, call, values }, transferred);
    });
  }
}

/**
 * The address of a script that starts another. As a blob it is under the policy of the page, which
 * has the browser refuse all other servers; by its own address it would be under none.
 */
function guarded(path) {
  const start = `import ${JSON.stringify(new URL(path, import.meta.url).href)};`;
  return URL.createObjectURL(new Blob([start], { type: "text/javascript" }));
}
