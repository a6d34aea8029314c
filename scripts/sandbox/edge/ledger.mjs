// JSON documents on disk: late, together and atomically.
import fs from 'node:fs'
import path from 'node:path'

const DEBOUNCE_MS = 150

/** Replace a file in one step: a reader, or a kill, sees the old or the new content. */
export function writeAtomically(file, content) {
  const temporary = `${file}.${process.pid}.tmp`
  fs.writeFileSync(temporary, content, { mode: 0o600 })
  fs.renameSync(temporary, file)
}

export class Ledger {
  constructor(directory) {
    this.directory = directory
    this.dirty = new Map()
    this.timer = null
    fs.mkdirSync(directory, { recursive: true })
  }

  /** Every stored document as [name, value], without leftovers of an interrupted write. */
  * load() {
    for (const entry of fs.readdirSync(this.directory).sort()) {
      const file = path.join(this.directory, entry)
      if (entry.endsWith('.tmp')) fs.rmSync(file)
      else if (entry.endsWith('.json')) yield [entry.slice(0, -5), JSON.parse(fs.readFileSync(file, 'utf8'))]
    }
  }

  /** Remember that a document changed; produce() is called when it is written. */
  mark(name, produce) {
    this.dirty.set(name, produce)
    this.timer ??= setTimeout(() => this.flush(), DEBOUNCE_MS)
  }

  /** Write what is marked now, before something is reported as done. */
  flush() {
    clearTimeout(this.timer)
    this.timer = null
    for (const [name, produce] of this.dirty) {
      writeAtomically(path.join(this.directory, `${name}.json`), JSON.stringify(produce()))
    }
    this.dirty.clear()
  }

  clear() {
    clearTimeout(this.timer)
    this.timer = null
    this.dirty.clear()
    for (const entry of fs.readdirSync(this.directory)) fs.rmSync(path.join(this.directory, entry))
  }
}
