// Talks to the server. Answers go one after the other, and each is sent until the server has it on its disk.
import { $ } from "./dom.js";

export class Refused extends Error {}

export async function post(path, data) {
  const reply = await fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(data),
  });
  const answer = await reply.json();
  if (reply.ok) return answer;
  throw reply.status < 500 ? new Refused(answer.error) : new Error(answer.error);
}

export class Saver {
  constructor(person) {
    this.person = person;
    this.waiting = 0;
    this.chain = Promise.resolve();
    addEventListener("beforeunload", (event) => { if (this.waiting) event.preventDefault(); });
  }

  // Resolves with the server's reply once the answer is safe; rejects only if the server refuses it.
  put(video, answer) {
    const copy = structuredClone(answer);
    this.waiting += 1;
    this.show();
    const sent = this.chain.then(() => this.insist({ person: this.person, video, answer: copy }));
    this.chain = sent.catch(() => {}).finally(() => { this.waiting -= 1; this.show(); });
    return sent;
  }

  async insist(data) {
    for (let pause = 300; ; pause = Math.min(2 * pause, 5000)) {
      try {
        return await post("/api/answer", data);
      } catch (error) {
        if (error instanceof Refused) throw error;
        this.show(error.message);
        await new Promise((wake) => setTimeout(wake, pause));
      }
    }
  }

  show(trouble = "") {
    const node = $("saved");
    node.className = trouble ? "late" : "";
    node.textContent = trouble ? `Not saved yet (${trouble}); trying again` : this.waiting ? "Saving…" : "Saved";
    node.dataset.waiting = this.waiting;
  }
}
