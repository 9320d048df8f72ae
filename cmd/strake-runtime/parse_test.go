package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"
)

func TestFlags(t *testing.T) {
	for _, test := range []struct {
		args []string
		mode mode
		want string // switch, text, number, list, rest
		fail bool
	}{
		{[]string{"a"}, flagsAnywhere, "false  0 [] [a]", false},
		{[]string{"--force", "a"}, flagsAnywhere, "true  0 [] [a]", false},
		{[]string{"a", "-f", "b"}, flagsAnywhere, "true  0 [] [a b]", false},
		{[]string{"a", "-f"}, stopAtArgument, "false  0 [] [a -f]", false},
		{[]string{"-force=false", "-name", "x", "--n=3"}, flagsAnywhere, "false x 3 [] []", false},
		{[]string{"--item", "a=b", "-i", "", "--", "-f"}, flagsAnywhere, "false  0 [a=b ] [-f]", false},
		{[]string{"--name", "--force"}, flagsAnywhere, "false --force 0 [] []", false},
		{[]string{"-"}, flagsAnywhere, "false  0 [] [-]", false},
		{[]string{"--name"}, flagsAnywhere, "", true},
		{[]string{"--n", "x"}, flagsAnywhere, "", true},
		{[]string{"--force=maybe"}, flagsAnywhere, "", true},
		{[]string{"---force"}, flagsAnywhere, "", true},
		{[]string{"--nosuch"}, flagsAnywhere, "", true},
	} {
		var f flags
		var force bool
		var name string
		var n int
		var items []string
		f.flag(&force, "force,f", "")
		f.text(&name, "name", "NAME", "")
		f.number(&n, "n", "N", "")
		f.list(&items, "item,i", "ITEM", "")
		rest, err := f.parse(test.args, test.mode)
		got := fmt.Sprint(force, " ", name, " ", n, " ", items, " ", rest)
		if (err != nil) != test.fail || err == nil && got != test.want {
			t.Errorf("%q: %s, %v; want %s", test.args, got, err, test.want)
		}
	}
}

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]syscall.Signal{
		"9": 9, "KILL": 9, "SIGTERM": 15, "sigterm": 15, "RTMIN": 34, "SIGRTMIN+3": 37, "RTMAX-1": 63, "0": 0, "64": 64,
	} {
		if got, err := parseSignal(text); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "65", "-1", "NOSUCH", "RTMIN+99", "RTMIN+x", "RTMIN-1", "SIGSIGTERM"} {
		if got, err := parseSignal(text); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
}

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]int64{
		"-1": -1, "0": 0, "5": 5, "64k": 64 << 10, "64M": 64 << 20, "2gb": 2 << 30, "1T": 1 << 40, "7b": 7,
		"64MiB": 64 << 20, "64 MB": 64 << 20, "1.5G": 3 << 29, "10 M": 10 << 20, "1p": 1 << 50, ".5KiB": 512, "5.": 5, "1.9": 1, "1e3": 1000, "64 ": 64,
		"9223372036854775807": 1<<63 - 1, "8191.5p": 8191<<50 + 1<<49,
	} {
		if got, err := parseBytes(text); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"b", "k", ".", " ", " 5", "-2", "-0.5G", "-1k", "9999999999G", "8192p", "9223372036854775808", "1e999", "nan",
		"10  M", "5ib", "5kk", "5Mi", "5bb", "5kibb", "5e", "5x", "M5", "1.2.3", "\u0661G"} {
		if got, err := parseBytes(text); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
}

// TestLimitFlags: an empty limit is none that is given, as with runc.
func TestLimitFlags(t *testing.T) {
	var signed, bytes *int64
	var unsigned *uint64
	var f flags
	bindSigned(&f, &signed, "signed", "")
	bindUnsigned(&f, &unsigned, "unsigned", "")
	bindBytes(&f, &bytes, "bytes", "")
	if _, err := f.parse([]string{"--signed=", "--unsigned=", "--bytes="}, flagsAnywhere); err != nil || signed != nil || unsigned != nil || bytes != nil {
		t.Errorf("empty: %v, %v, %v, %v", signed, unsigned, bytes, err)
	}
	if _, err := f.parse([]string{"--signed=-2", "--unsigned=3", "--bytes=4k"}, flagsAnywhere); err != nil || *signed != -2 || *unsigned != 3 || *bytes != 4096 {
		t.Errorf("%v, %v, %v, %v", signed, unsigned, bytes, err)
	}
	for _, arg := range []string{"--signed=x", "--unsigned=-1", "--bytes=x"} {
		if _, err := f.parse([]string{arg}, flagsAnywhere); err == nil {
			t.Errorf("%s is taken", arg)
		}
	}
}

func TestParseUser(t *testing.T) {
	if uid, gid, err := parseUser("12", 7); uid != 12 || gid != 7 || err != nil {
		t.Errorf("12: %d:%d, %v", uid, gid, err)
	}
	if uid, gid, err := parseUser("12:34", 7); uid != 12 || gid != 34 || err != nil {
		t.Errorf("12:34: %d:%d, %v", uid, gid, err)
	}
	for _, text := range []string{"", ":", "1:", ":1", "root", "1x", "-1", "+1", "1:2:3", "4294967296", " 1"} {
		if uid, gid, err := parseUser(text, 0); err == nil {
			t.Errorf("%q is taken for %d:%d", text, uid, gid)
		}
	}
}

// No verb and no flag of a verb is there twice.
func TestVerbNames(t *testing.T) {
	var names []string
	for _, v := range verbs() {
		if slices.Contains(names, v.name) || v.bind == nil || v.help == "" {
			t.Errorf("verb %q", v.name)
		}
		names = append(names, v.name)
		var f flags
		f.flag(new(bool), "help,h", "")
		v.bind(&app{log: &logger{}}, &f)
		seen := map[string]bool{}
		for _, one := range f.all {
			for _, n := range one.names {
				if seen[n] {
					t.Errorf("%s: flag %s is declared twice", v.name, n)
				}
				seen[n] = true
			}
		}
	}
}

func TestStateIsWhatReflectionPrints(t *testing.T) {
	for _, s := range []containerState{
		{Created: time.Unix(1, 5).UTC()},
		{Version: "1.3.0", ID: "a", Pid: 7, Status: "running", Bundle: "/b\n", Rootfs: `/"r"`, Created: time.Unix(9, 0).UTC(),
			Annotations: map[string]string{"b": "2", "a": "ä"}, Owner: "root"},
	} {
		want, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if got := string(s.appendJSON(nil)); got != string(want)+"\n" {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
}
