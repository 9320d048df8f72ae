package main

import (
	"fmt"
	"strings"
)

// diffContext is how many equal lines stand around a difference.
const diffContext = 3

// maxDiff bounds what is compared line by line: the table has its square.
const maxDiff = 4096

// edit is a line that both have (' '), or only the one ('-') or the other ('+').
type edit struct {
	kind byte
	text string
}

// unifiedDiff shows what differs between two lists of lines, as diff -u does. It
// is empty if nothing does.
func unifiedDiff(a, b []string) string {
	edits := diffLines(a, b)
	var out strings.Builder
	for start := 0; start < len(edits); {
		if edits[start].kind == ' ' {
			start++
			continue
		}
		// The hunk ends before a run of equal lines that is longer than what
		// stands around two differences.
		end, equal := start, 0
		for i := start; i < len(edits) && equal <= 2*diffContext; i++ {
			if equal++; edits[i].kind != ' ' {
				end, equal = i+1, 0
			}
		}
		writeHunk(&out, edits, max(0, start-diffContext), min(len(edits), end+diffContext))
		start = min(len(edits), end+diffContext)
	}
	return out.String()
}

func writeHunk(out *strings.Builder, edits []edit, from, to int) {
	at := map[byte]int{}
	for _, e := range edits[:from] {
		at[e.kind]++
	}
	n := map[byte]int{}
	for _, e := range edits[from:to] {
		n[e.kind]++
	}
	fmt.Fprintf(out, "@@ -%d,%d +%d,%d @@\n", at[' ']+at['-']+1, n[' ']+n['-'], at[' ']+at['+']+1, n[' ']+n['+'])
	for _, e := range edits[from:to] {
		fmt.Fprintf(out, "%c%s\n", e.kind, e.text)
	}
}

// diffLines turns a into b by the fewest edits, by their longest common
// subsequence.
func diffLines(a, b []string) []edit {
	var edits []edit
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		edits = append(edits, edit{' ', a[0]})
		a, b = a[1:], b[1:]
	}
	if len(a) > maxDiff || len(b) > maxDiff {
		for _, l := range a {
			edits = append(edits, edit{'-', l})
		}
		for _, l := range b {
			edits = append(edits, edit{'+', l})
		}
		return edits
	}
	// common[i][j] is the length of that of a[i:] and b[j:].
	common := make([][]int16, len(a)+1)
	for i := range common {
		common[i] = make([]int16, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			edits = append(edits, edit{' ', a[i]})
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			edits = append(edits, edit{'-', a[i]})
			i++
		default:
			edits = append(edits, edit{'+', b[j]})
			j++
		}
	}
	return edits
}
