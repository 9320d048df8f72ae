package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/strake-containers/strake/internal/leanjson"
	"github.com/strake-containers/strake/oci/container"
)

// containerState is a container as runc shows it.
type containerState struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         int               `json:"pid"` // 0 once stopped
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

func stateOf(s container.State) containerState {
	return containerState{
		Version: s.Version, ID: s.ID, Pid: s.Pid, Status: string(s.Status), Bundle: s.Bundle,
		Rootfs: s.Rootfs, Created: s.Created, Annotations: s.Annotations, Owner: s.Owner,
	}
}

// appendJSON appends what printJSON would print: every shim asks for the state
// again and again, and reflection is half of the cost of telling it.
func (s containerState) appendJSON(b []byte) []byte {
	text := func(name, value string) {
		b = append(b, ",\n  \""+name+"\": "...)
		b = leanjson.AppendText(b, value)
	}
	b = append(b, "{\n  \"ociVersion\": "...)
	b = leanjson.AppendText(b, s.Version)
	text("id", s.ID)
	b = append(b, ",\n  \"pid\": "...)
	b = strconv.AppendInt(b, int64(s.Pid), 10)
	text("status", s.Status)
	text("bundle", s.Bundle)
	text("rootfs", s.Rootfs)
	text("created", s.Created.Format(time.RFC3339Nano))
	if len(s.Annotations) > 0 {
		b = append(b, ",\n  \"annotations\": {"...)
		for i, name := range slices.Sorted(maps.Keys(s.Annotations)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, "\n    "...)
			b = leanjson.AppendText(b, name)
			b = append(b, ": "...)
			b = leanjson.AppendText(b, s.Annotations[name])
		}
		b = append(b, "\n  }"...)
	}
	text("owner", s.Owner)
	return append(b, "\n}\n"...)
}

func bindState(a *app, _ *flags) func(context.Context, []string) error {
	return func(_ context.Context, args []string) error {
		id, err := oneID(args)
		if err != nil {
			return fmt.Errorf("state: %w", err)
		}
		c, err := container.Load(a.root, id)
		if err != nil {
			return err
		}
		s, err := c.State()
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(stateOf(s).appendJSON(nil))
		return err
	}
}
