package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// printer writes the story: titles, steps with their times, quotations. It is in
// colour on a terminal.
type printer struct {
	colour      bool
	begun       time.Time
	interrupted func() error // not nil: no further step
}

func newPrinter(interrupted func() error) printer {
	return printer{colour: term.IsTerminal(int(os.Stdout.Fd())), begun: time.Now(), interrupted: interrupted}
}

func (p printer) paint(code, s string) string {
	if !p.colour {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p printer) title(s string) { fmt.Printf("\n%s\n", p.paint("1", s)) }

// step does one thing and says how long it took. Do returns what came of it.
func (p printer) step(what string, do func() (string, error)) error {
	begun := time.Now()
	result, err := do()
	took := time.Since(begun)
	mark := p.paint("32", "✓")
	if err != nil {
		mark = p.paint("31", "✗")
	}
	fmt.Printf("  %s %-28s %s  %s\n", mark, what, p.paint("36", fmt.Sprintf("%8s", milliseconds(took))), result)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return p.interrupted()
}

// quote shows what somebody else has written.
func (p printer) quote(who, text string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		fmt.Printf("      %s %s\n", p.paint("2", who+" │"), strings.TrimRight(line, "\n"))
	}
}

func milliseconds(d time.Duration) string {
	if d >= 10*time.Second {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

func (p printer) end() {
	fmt.Printf("\nDone in %.1f s. Next: README.md, or %s\n", time.Since(p.begun).Seconds(),
		"bin/straked & and then bin/strake run -it --rm debian")
}
