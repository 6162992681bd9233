// Package spelling finds the name that was probably meant by a mistyped one.
package spelling

// Nearest returns the one of names that is the fewest typing mistakes away from name, and no more than within. It
// returns an empty string if no name is that close.
func Nearest(name string, names []string, within int) (found string) {
	for _, candidate := range names {
		if d := distance(name, candidate); d <= within {
			found, within = candidate, d-1
		}
	}
	return found
}

// distance counts how many letters of a must be left out, added, replaced, or swapped with the next to get b (optimal
// string alignment).
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replaced := last[j-1]
			if a[i-1] != b[j-1] {
				replaced++
			}
			row[j] = min(last[j]+1, row[j-1]+1, replaced)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
