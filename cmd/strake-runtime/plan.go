package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/oci/plan"
	"github.com/strake-containers/strake/oci/spec"
)

// planFlags are those of plan.
type planFlags struct {
	format, id, process string
	diff                bool
}

func bindPlan(a *app, f *flags) func(context.Context, []string) error {
	p := planFlags{format: "text", id: "plan"}
	f.text(&p.format, "format,f", "text|json", "how to print it")
	f.text(&p.id, "id", "ID", "id of the container that it would be")
	f.text(&p.process, "process,p", "FILE", "print what exec would run for this process in the container")
	f.flag(&p.diff, "diff", "show what differs between the programs of two bundles or configs")
	return func(_ context.Context, args []string) error {
		if p.format != "text" && p.format != "json" {
			return fmt.Errorf("--format: %q is not text or json", p.format)
		}
		if p.diff {
			return p.printDiff(a, args)
		}
		if len(args) > 1 {
			return fmt.Errorf("plan: one bundle is wanted, not %d arguments", len(args))
		}
		prog, err := p.compile(a, strings.Join(args, "")) // without one, the current directory
		if err != nil {
			return err
		}
		if p.format == "json" {
			return printJSON(prog)
		}
		_, err = fmt.Print(prog)
		return err
	}
}

// compile makes the program for a bundle, or for a config that is a file.
func (p *planFlags) compile(a *app, name string) (*plan.Program, error) {
	o := container.CreateOptions{
		ID: p.id, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		SystemdCgroup: a.systemd, Rootless: a.rootless, NoCgroup: a.noCgroup,
	}
	var err error
	if o.Bundle, err = filepath.Abs(name); err != nil {
		return nil, err
	}
	if st, err := os.Stat(o.Bundle); err == nil && !st.IsDir() {
		o.Bundle, o.Config = filepath.Split(o.Bundle)
		o.Bundle = filepath.Clean(o.Bundle)
	}
	if p.process == "" {
		return container.Plan(o)
	}
	data, err := readInput(p.process)
	if err != nil {
		return nil, fmt.Errorf("--process: %w", err)
	}
	process, err := spec.DecodeProcess(data)
	if err != nil {
		return nil, fmt.Errorf("--process %s: %w", p.process, err)
	}
	return container.PlanExec(o, process)
}

func (p *planFlags) printDiff(a *app, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("plan --diff: two bundles or configs are wanted, not %d arguments", len(args))
	}
	if p.format != "text" {
		return errors.New("plan --diff: is text only: leave --format out")
	}
	var lines [2][]string
	for i, name := range args {
		prog, err := p.compile(a, name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		lines[i] = programLines(prog)
	}
	out := unifiedDiff(lines[0], lines[1])
	if out == "" {
		return nil
	}
	_, err := fmt.Printf("--- %s\n+++ %s\n%s", args[0], args[1], out)
	return err
}

// programLines are a program's lines without the numbers of its operations, each
// with its field of the config: what differs is then what the config changed.
func programLines(p *plan.Program) []string {
	header, _, _ := strings.Cut(p.String(), "\n")
	lines := append([]string{header}, p.Parent()...)
	for i := range p.Ops {
		lines = append(lines, fmt.Sprintf("%-80s # %s", p.Ops[i].String(), p.Ops[i].Where()))
	}
	for _, w := range p.Warnings {
		lines = append(lines, "warning: "+w)
	}
	return lines
}
