package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"encoding/json"

	"github.com/strake-containers/strake/oci/container"
)

func bindList(a *app, f *flags) func(context.Context, []string) error {
	format, quiet := "table", false
	f.text(&format, "format,f", "table|json", "how to show them")
	f.flag(&quiet, "quiet,q", "ids only")
	return func(_ context.Context, args []string) error {
		if len(args) > 0 {
			return errors.New("list: takes no argument")
		}
		if _, err := os.Stat(a.root); a.ownRoot && err != nil {
			return fmt.Errorf("--root: %w", err)
		}
		states, err := container.List(a.root)
		if err != nil {
			a.log.warn(err.Error()) // the others are worth showing
		}
		list := make([]containerState, 0, len(states))
		for _, s := range states {
			list = append(list, stateOf(s))
		}
		switch {
		case quiet:
			for _, s := range list {
				fmt.Println(s.ID)
			}
			return nil
		case format == "json":
			return json.NewEncoder(os.Stdout).Encode(list)
		case format == "table":
			return printTable(list)
		}
		return fmt.Errorf("--format: %q is not table or json", format)
	}
}

func printTable(list []containerState) error {
	rows := [][]string{{"ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"}}
	for _, s := range list {
		rows = append(rows, []string{s.ID, fmt.Sprint(s.Pid), s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner})
	}
	return printRows(rows)
}

// printRows aligns columns as runc does: at least 12 wide, three spaces between.
func printRows(rows [][]string) error {
	const least, gap = 12, 3
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len(cell)+gap, least)
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			if i == len(row)-1 {
				line.WriteString(cell)
				break
			}
			fmt.Fprintf(&line, "%-*s", widths[i], cell)
		}
		if _, err := fmt.Println(line.String()); err != nil {
			return err
		}
	}
	return nil
}
