package main

import (
	"fmt"
	"strconv"
	"strings"
)

// flags is a set of flags in the way of runc's: -name or --name, a value after
// "=" or in the next argument, "--" ends them. A flag that may be repeated is a
// list. The first name is the long one.
type flags struct {
	all []flag
}

type flag struct {
	names []string
	value string // what the help text calls it; "" is a switch
	help  string
	set   func(string) error
}

// mode says where flags may stand.
type mode int

const (
	flagsAnywhere  mode = iota // "delete ID --force" too
	stopAtArgument             // the rest belongs to somebody else
)

func (f *flags) add(names, value, help string, set func(string) error) {
	f.all = append(f.all, flag{strings.Split(names, ","), value, help, set})
}

// flag declares a switch.
func (f *flags) flag(to *bool, names, help string) {
	f.add(names, "", help, func(s string) (err error) {
		*to, err = strconv.ParseBool(s)
		return err
	})
}

func (f *flags) text(to *string, names, value, help string) {
	f.add(names, value, help, func(s string) error {
		*to = s
		return nil
	})
}

func (f *flags) list(to *[]string, names, value, help string) {
	f.add(names, value, help, func(s string) error {
		*to = append(*to, s)
		return nil
	})
}

func (f *flags) number(to *int, names, value, help string) {
	f.add(names, value, help, func(s string) (err error) {
		*to, err = strconv.Atoi(s)
		return err
	})
}

// parse sets the flags and returns the other arguments.
func (f *flags) parse(args []string, m mode) ([]string, error) {
	var rest []string
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			return append(rest, args...), nil
		case len(arg) < 2 || arg[0] != '-':
			if m == stopAtArgument {
				return append([]string{arg}, args...), nil
			}
			rest = append(rest, arg)
			continue
		}
		name, value, given := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
		def, ok := f.find(name)
		switch {
		case !ok:
			return nil, fmt.Errorf("unknown flag %s", arg)
		case def.value == "" && !given:
			value = "true"
		case !given && len(args) == 0:
			return nil, fmt.Errorf("%s: a value is missing: %s", arg, def.value)
		case !given:
			value, args = args[0], args[1:]
		}
		if err := def.set(value); err != nil {
			return nil, fmt.Errorf("--%s: %q: %w", def.names[0], value, err)
		}
	}
	return rest, nil
}

func (f *flags) find(name string) (flag, bool) {
	for _, one := range f.all {
		for _, n := range one.names {
			if n == name {
				return one, true
			}
		}
	}
	return flag{}, false
}

func (f *flags) print() error {
	for _, one := range f.all {
		names := "--" + one.names[0]
		for _, short := range one.names[1:] {
			names += ", -" + short
		}
		if one.value != "" {
			names += " " + one.value
		}
		if _, err := fmt.Printf("   %-32s %s\n", names, one.help); err != nil {
			return err
		}
	}
	return nil
}
