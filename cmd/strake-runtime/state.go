package main

import (
	"context"
	"fmt"
	"time"

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
		return printJSON(stateOf(s))
	}
}
