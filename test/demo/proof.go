package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/mdlayher/netlink"

	"github.com/strake-containers/strake/network/bridge"
)

// rememberNetNS keeps the identity of the pod's network namespace, to look for it
// when its name has gone.
func (d *demo) rememberNetNS() error {
	path := filepath.Join(d.path("run"), "netns", d.pod)
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	d.netns = info.Sys().(*syscall.Stat_t).Ino
	return nil
}

// removeHost removes what a node keeps for its next pod: the bridge with its
// table, and the cgroup that was the pod's parent.
func (d *demo) removeHost(ctx context.Context) error {
	b := bridge.New(bridge.Config{StateDir: filepath.Join(d.path("root"), "network", "bridge"), Bridge: d.name})
	err := errors.Join(b.Destroy(ctx), b.Close())
	for _, dir := range d.cgroups() {
		err = errors.Join(err, os.Remove(dir))
	}
	return err
}

var errStayed = errors.New("this stayed")

// prove looks at the kernel, not at what straked says.
func (d *demo) prove(context.Context) error {
	var left []string
	for _, kind := range []struct {
		name string
		find func() ([]string, error)
	}{
		{"processes", d.processes},
		{"network namespaces", d.namespaces},
		{"mounts", d.mounts},
		{"cgroups", func() ([]string, error) { return d.cgroups(), nil }},
		{"network links", d.links},
		{"nftables", d.tables},
		{"files", d.files},
	} {
		err := d.step(kind.name, func() (string, error) {
			found, err := kind.find()
			left = append(left, found...)
			if err == nil && len(found) > 0 {
				return fmt.Sprintf("%d left", len(found)), errStayed
			}
			return "none", err
		})
		if err != nil && !errors.Is(err, errStayed) {
			return err
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("%w:\n%s", errStayed, strings.Join(left, "\n"))
	}
	return errors.Join(d.conn.Close(), d.log.Close(), os.RemoveAll(d.dir))
}

// processes lists those that were started with our directory or are in our
// cgroup.
func (d *demo) processes() ([]string, error) {
	return d.eachProcess(func(proc string) bool {
		cmdline, _ := os.ReadFile(proc + "/cmdline") // it may have ended
		cgroup, _ := os.ReadFile(proc + "/cgroup")
		return bytes.Contains(cmdline, []byte(d.dir)) || bytes.Contains(cgroup, []byte(d.name))
	})
}

// namespaces lists the processes that hold the pod's network namespace; those
// that hold it by a mount are among the mounts.
func (d *demo) namespaces() ([]string, error) {
	return d.eachProcess(func(proc string) bool {
		info, err := os.Stat(proc + "/ns/net")
		return err == nil && info.Sys().(*syscall.Stat_t).Ino == d.netns
	})
}

func (d *demo) eachProcess(ours func(proc string) bool) (found []string, err error) {
	all, err := filepath.Glob("/proc/[0-9]*")
	for _, proc := range all {
		if proc == fmt.Sprintf("/proc/%d", os.Getpid()) || !ours(proc) {
			continue
		}
		comm, _ := os.ReadFile(proc + "/comm") // it may have ended
		found = append(found, fmt.Sprintf("process %s (%s)", filepath.Base(proc), bytes.TrimSpace(comm)))
	}
	return found, err
}

func (d *demo) mounts() (found []string, err error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, d.dir) || strings.Contains(line, fmt.Sprintf("net:[%d]", d.netns)) {
			found = append(found, "mount "+strings.TrimSpace(line))
		}
	}
	return found, err
}

// cgroups lists the directories of ours in every hierarchy, the deepest first.
func (d *demo) cgroups() (found []string) {
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && strings.Contains(path, d.name) {
			found = append([]string{path}, found...)
		}
		return nil // what has just gone is no concern of ours
	})
	return found
}

// links lists the bridge and the host's ends of our pods' cables.
func (d *demo) links() (found []string, err error) {
	all, err := filepath.Glob("/sys/class/net/*")
	for _, link := range all {
		master, _ := os.Readlink(link + "/master") // most have none
		if filepath.Base(link) == d.name || filepath.Base(master) == d.name {
			found = append(found, "link "+filepath.Base(link))
		}
	}
	return found, err
}

// tables asks the kernel for all tables, chains, rules and sets of nftables and
// looks for our name in them.
func (d *demo) tables() ([]string, error) {
	const (
		netfilter = 12 // NETLINK_NETFILTER
		subsystem = 10 // NFNL_SUBSYS_NFTABLES
	)
	conn, err := netlink.Dial(netfilter, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // it only reads
	var found []string
	for kind, get := range map[string]uint16{"table": 1, "chain": 4, "rule": 7, "set": 10} { // NFT_MSG_GET…
		all, err := conn.Execute(netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(subsystem<<8 | get), Flags: netlink.Request | netlink.Dump},
			Data:   []byte{0, 0, 0, 0}, // struct nfgenmsg: every family
		})
		if err != nil {
			return nil, fmt.Errorf("list nftables: %w", err)
		}
		for _, m := range all {
			if bytes.Contains(m.Data, []byte(d.name)) {
				found = append(found, "nftables "+kind)
			}
		}
	}
	return found, nil
}

// files lists what is left of pods, containers and layers, and in /run.
func (d *demo) files() (found []string, err error) {
	for _, dir := range []string{"root/pods", "root/images/layers", "root/network", "run/pods", "run/netns", "run/runtime"} {
		walkErr := filepath.WalkDir(d.path(dir), func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && !e.IsDir() {
				found = append(found, path)
			}
			return err
		})
		err = errors.Join(err, walkErr)
	}
	return found, err
}
