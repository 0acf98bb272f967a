/** A list of numbers that grows, at eight bytes each: a job of millions of lines keeps places in files, not texts. */
export class Column {
  #values = new Float64Array(1024)
  length = 0

  push(value: number): void {
    if (this.length === this.#values.length) {
      const larger = new Float64Array(2 * this.length)
      larger.set(this.#values)
      this.#values = larger
    }
    this.#values[this.length++] = value
  }

  at(index: number): number {
    if (index < 0 || index >= this.length) throw new RangeError(`entry ${index} of ${this.length}`)
    return this.#values[index]!
  }
}
