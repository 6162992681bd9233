//go:build race

package bench

// raceAllocations is what the race detector adds: it has pools forget at random.
const raceAllocations = 2
