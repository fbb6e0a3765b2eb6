package config

import "strings"

// nearest returns the candidate that a person most likely meant by word, or "" when none is near.
func nearest(word string, candidates []string) string {
	word = plain(word)
	// About one slip in three letters still leaves a word recognizable.
	best, limit := "", max(1, (len(word)+1)/3)
	for _, c := range candidates {
		if d := Distance(word, plain(c)); d <= limit {
			if best = c; d == 0 {
				break
			}
			limit = d - 1
		}
	}
	return best
}

// plain drops what people vary: upper case, hyphens, underscores.
func plain(s string) string {
	return strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(s))
}

// Distance counts the bytes to insert, drop, change or swap with their neighbour to make a into b
// (optimal string alignment).
func Distance(a, b string) int {
	// rows are prefixes of a, columns prefixes of b; only the last two rows are needed.
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := last[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(change, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
