package main

import (
	"regexp"
	"strings"
	"testing"
)

func TestPattern(t *testing.T) {
	ids := []string{"", "a", "b", "ab", "abab", "test-1", "test-12", "web.example", "web-example", "a]b", "x+y", strings.Repeat("a", 200)}
	for _, text := range []string{
		"", "a", "^a$", "^(ab)*$", "^(ab)+$", "test-*", "^test-[0-9]$", "^test-[0-9]{2}$", "^test-[0-9]{2,}$", "^a{1,3}$", "a?b", "^(a|b)$",
		`web\.example`, "web.example", "[^a-z]", "[]]", `\+`, "(a*)*$", "(a|aa)*(a|aa)*(a|aa)*b", "^$", "a|", "()", "$", "[a-]", "^a{0}b", "((a)(b)){2}",
	} {
		p, err := compilePattern(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		want := regexp.MustCompile(text)
		for _, id := range ids {
			if got := p.matches(id); got != want.MatchString(id) {
				t.Errorf("%q in %q: %v", text, id, got)
			}
		}
	}
	for _, text := range []string{"(", ")", "(a", "a)", "*", "+a", "a|*", "[", "[]", "[^", "[z-a]", "a{", "a{2", "a{2,1}", "a{300}", "a{x}", "a{-1}", `\`, `\d`,
		"[[:alpha:]]", strings.Repeat("(", 101) + strings.Repeat(")", 101), strings.Repeat("a", 5000)} {
		if _, err := compilePattern(text); err == nil {
			t.Errorf("%.30q is taken", text)
		}
	}
}

func FuzzPattern(f *testing.F) {
	f.Add("^(a|b)*[^c-e]{2,3}$", "abab")
	f.Add("((a*)*)*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	f.Fuzz(func(t *testing.T, text, id string) {
		if len(text) > 200 {
			return // nested counts multiply; the time limit is the fuzzer's
		}
		if p, err := compilePattern(text); err == nil {
			p.matches(id)
		}
	})
}
