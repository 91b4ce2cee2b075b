// Search in pages that are opened from the disk. Browsers start no Worker for such pages; here the
// worker's script runs in a hidden frame instead. Messages are copied, as a Worker copies them.
// The name of this file tells Zensical not to load a replacement of its own from the network.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      // What the script posts goes to the page.
      inside.postMessage = (data) => setTimeout(() => this.receive(data));
      this.loaded = new Promise((resolve, reject) => {
        const script = inside.document.createElement("script");
        script.src = new URL(url, document.baseURI);
        script.onload = resolve;
        script.onerror = reject;
        inside.document.head.append(script);
      });
      this.loaded.catch((error) => this.onerror?.(error));
    }

    receive(data) {
      const message = new MessageEvent("message", { data: structuredClone(data) });
      this.onmessage?.(message);
      this.dispatchEvent(message);
    }

    postMessage(data) {
      const message = new MessageEvent("message", { data: structuredClone(data) });
      this.loaded.then(() => this.frame.contentWindow.dispatchEvent(message), () => {});
    }

    terminate() {
      this.frame.remove();
    }
  };
}
