package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/strake-containers/strake/oci/container"
)

func bindPs(a *app, f *flags) func(context.Context, []string) error {
	format := "table"
	f.text(&format, "format,f", "table|json", "ps's own table, or the pids")
	return func(ctx context.Context, args []string) error {
		if len(args) == 0 {
			return errors.New("ps: a container id is wanted")
		}
		c, err := container.Load(a.root, args[0])
		if err != nil {
			return err
		}
		pids, err := c.Pids()
		if err != nil {
			return err
		}
		switch format {
		case "json":
			if pids == nil {
				pids = []int{}
			}
			return json.NewEncoder(os.Stdout).Encode(pids)
		case "table":
			return psTable(ctx, pids, args[1:])
		}
		return fmt.Errorf("--format: %q is not table or json", format)
	}
}

// psTable shows the lines of ps(1) that are about the given processes.
func psTable(ctx context.Context, pids []int, options []string) error {
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	var stderr bytes.Buffer
	ps := exec.CommandContext(ctx, "ps", options...)
	ps.Stderr = &stderr
	out, err := ps.Output()
	if err != nil {
		return fmt.Errorf("ps %s: %w: %s", strings.Join(options, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	header, rest, _ := strings.Cut(string(out), "\n")
	column := slices.Index(strings.Fields(header), "PID")
	if column < 0 {
		return fmt.Errorf("ps %s: shows no column PID", strings.Join(options, " "))
	}
	fmt.Println(header)
	for line := range strings.Lines(rest) {
		fields := strings.Fields(line)
		if len(fields) <= column {
			continue
		}
		if pid, err := strconv.Atoi(fields[column]); err == nil && slices.Contains(pids, pid) {
			fmt.Print(line)
		}
	}
	return nil
}
