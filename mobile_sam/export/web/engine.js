// The interface of the worker: each call returns a promise of its result.

export class Engine {
  /** progress: called with the share of the model's bytes that were received. */
  constructor(progress) {
    this.pending = new Map();
    this.number = 0;
    this.worker = new Worker(withPagePolicy("./worker.js"), { type: "module" });
    this.worker.onmessage = ({ data }) => {
      if ("progress" in data) progress(data.progress);
      else this.settle(data);
    };
    this.worker.onerror = (event) => {
      const error = `The model's worker stopped: ${event.message ?? "its script cannot be loaded"}.`;
      for (const number of [...this.pending.keys()]) this.settle({ number, error });
    };
  }

  settle({ number, value, error }) {
    const { resolve, reject } = this.pending.get(number);
    this.pending.delete(number);
    if (error === undefined) resolve(value);
    else reject(new Error(error));
  }

  call(call, values, transferred = []) {
    return new Promise((resolve, reject) => {
      this.pending.set(++this.number, { resolve, reject });
      this.worker.postMessage({ number: this.number, call, values }, transferred);
    });
  }
}

/**
 * Returns the address of a blob that imports a script. A blob inherits the page's content security
 * policy, which makes the browser refuse all other servers; the script itself would have no policy.
 */
function withPagePolicy(path) {
  const start = `import ${JSON.stringify(new URL(path, import.meta.url).href)};`;
  return URL.createObjectURL(new Blob([start], { type: "text/javascript" }));
}
