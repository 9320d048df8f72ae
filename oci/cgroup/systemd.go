package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/strake-containers/strake/internal/abi"
	"github.com/strake-containers/strake/internal/dbus"
)

// The systemd manager. The cgroup is a transient scope, started with a process
// that holds it until the container's init is in it, and delegated: what is in
// the scope is ours, and the limits that systemd knows are its properties as
// well, so that it does not undo them when it is reloaded.
//
// Callers of other runtimes know how many calls a busy node makes of its D-Bus.
// Here a scope is started with all its properties in one call, whose end is told
// by a signal; systemd is asked for nothing else that is not needed (its version,
// for the two properties that not every version has; a user's manager, where it
// is), and where its private socket may be used no broker is in between.

// unit is a scope of systemd's.
type unit struct {
	name       string
	slice      string     // "" for the manager's default
	user       bool       // of the user's instance, not the system's
	properties []property // by the config's annotations
}

// property is one of a unit's.
type property struct {
	name  string
	value dbus.Value
}

// newUnit names the scope that linux.cgroupsPath asks for as slice:prefix:name.
func newUnit(cgroupsPath, id string, user bool) (*unit, error) {
	slice, prefix, name := "", "strake", id
	if cgroupsPath != "" {
		parts := strings.Split(cgroupsPath, ":")
		if len(parts) != 3 || parts[2] == "" {
			return nil, fmt.Errorf("cgroup path %.200q: the systemd manager needs the form slice:prefix:name, such as system.slice:docker:abc", cgroupsPath)
		}
		slice, prefix, name = parts[0], parts[1], parts[2]
	}
	if strings.HasSuffix(name, ".slice") {
		return nil, fmt.Errorf("cgroup path %.200q: a slice holds no processes: give a name without .slice", cgroupsPath)
	}
	if prefix != "" {
		name = prefix + "-" + name
	}
	u := &unit{name: name + ".scope", slice: slice, user: user}
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:_.-@\\"
	if len(u.name) > 255 || strings.Trim(u.name, allowed) != "" {
		return nil, fmt.Errorf("cgroup path %.200q: systemd knows no unit of the name %.300q: use letters, digits and : _ . - @ \\, at most 255", cgroupsPath, u.name)
	}
	if _, err := abi.ExpandSlice(u.inSlice()); err != nil {
		return nil, fmt.Errorf("cgroup path %.200q: %w", cgroupsPath, err)
	}
	return u, nil
}

// IsScope says whether a cgroup path is of the form that only the systemd manager
// understands, slice:prefix:name.
func IsScope(cgroupsPath string) bool {
	return strings.Count(cgroupsPath, ":") == 2 && !strings.HasPrefix(cgroupsPath, "/")
}

func (u *unit) inSlice() string {
	switch {
	case u.slice != "":
		return u.slice
	case u.user:
		return "user.slice"
	}
	return "system.slice"
}

// path is the scope's below the root of each hierarchy. Of a user's manager it
// has to be asked where it is.
func (u *unit) path() (string, error) {
	below, err := abi.ExpandSlice(u.inSlice())
	if err != nil {
		return "", err
	}
	top := ""
	if u.user {
		err := u.talk(func(ctx context.Context, m *systemd) (err error) {
			top, err = m.get(ctx, "ControlGroup")
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return strings.TrimSuffix(top, "/") + below + "/" + u.name, nil
}

// start starts the scope with a process in it and waits until it is there.
func (u *unit) start(pid int, properties []property) error {
	all := []property{
		{"Description", dbus.String("Strake container " + strings.TrimSuffix(u.name, ".scope"))},
		{"Slice", dbus.String(u.inSlice())},
		{"Delegate", dbus.Bool(true)},
		{"PIDs", dbus.Array("u", dbus.Uint32(uint32(pid)))},
		{"DefaultDependencies", dbus.Bool(false)},
		{"MemoryAccounting", dbus.Bool(true)},
		{"CPUAccounting", dbus.Bool(true)},
		{"IOAccounting", dbus.Bool(true)},
		{"TasksAccounting", dbus.Bool(true)},
	}
	all = slices.Concat(all, u.properties, properties)
	return u.talk(func(ctx context.Context, m *systemd) error {
		args := []dbus.Value{dbus.String(u.name), dbus.String("replace"), list(all), dbus.Array("(sa(sv))")}
		err := m.job(ctx, "StartTransientUnit", args)
		if dbus.IsError(err, errUnitExists) {
			// Perhaps one of the same name that has failed, and that nobody has
			// cleared away.
			if m.call(ctx, "ResetFailedUnit", dbus.String(u.name)) == nil {
				err = m.job(ctx, "StartTransientUnit", args)
			}
		}
		if dbus.IsError(err, errUnitExists) {
			return fmt.Errorf("start %s: container's cgroup is not empty: %w: %w: give linux.cgroupsPath another name", u.name, ErrBusy, err)
		}
		if err != nil {
			_ = m.call(ctx, "ResetFailedUnit", dbus.String(u.name)) // there may be none
			return fmt.Errorf("start %s: %w", u.name, err)
		}
		return nil
	})
}

// set changes properties of the running scope.
func (u *unit) set(properties []property) error {
	if len(properties) == 0 {
		return nil
	}
	return u.talk(func(ctx context.Context, m *systemd) error {
		const runtime = true // not to survive a boot
		if err := m.call(ctx, "SetUnitProperties", dbus.String(u.name), dbus.Bool(runtime), list(properties)); err != nil {
			return fmt.Errorf("set properties of %s: %w", u.name, err)
		}
		return nil
	})
}

// stop stops the scope, and has systemd forget one that has failed. One that is
// gone, as a scope is once it is empty, is fine.
func (u *unit) stop() error {
	return u.talk(func(ctx context.Context, m *systemd) error {
		err := m.job(ctx, "StopUnit", []dbus.Value{dbus.String(u.name), dbus.String("replace")})
		if dbus.IsError(err, errNoSuchUnit) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("stop %s: %w", u.name, err)
		}
		if err := m.call(ctx, "ResetFailedUnit", dbus.String(u.name)); err != nil && !dbus.IsError(err, errNoSuchUnit) {
			return fmt.Errorf("reset %s: %w", u.name, err)
		}
		return nil
	})
}

// version is systemd's, for what not every version knows.
func (u *unit) version() (n int, err error) {
	err = u.talk(func(ctx context.Context, m *systemd) error {
		text, err := m.get(ctx, "Version") // "252.39-1~deb12u1", "v249"
		if err != nil {
			return err
		}
		text = strings.TrimPrefix(text, "v")
		digits := len(text) - len(strings.TrimLeft(text, "0123456789"))
		n, err = strconv.Atoi(text[:digits])
		return err
	})
	return n, err
}

func list(properties []property) dbus.Value {
	items := make([]dbus.Value, len(properties))
	for i, p := range properties {
		items[i] = dbus.Struct(dbus.String(p.name), dbus.Variant(p.value))
	}
	return dbus.Array("(sv)", items...)
}

// Names of systemd's and their errors.
const (
	systemdName      = "org.freedesktop.systemd1"
	systemdPath      = "/org/freedesktop/systemd1"
	systemdInterface = "org.freedesktop.systemd1.Manager"

	errUnitExists = "org.freedesktop.systemd1.UnitExists"
	errNoSuchUnit = "org.freedesktop.systemd1.NoSuchUnit"
)

// systemdTimeout bounds a conversation. systemd answers in milliseconds unless
// the machine is in trouble.
const systemdTimeout = 30 * time.Second

// talk has a conversation with the manager.
func (u *unit) talk(say func(context.Context, *systemd) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), systemdTimeout)
	defer cancel()
	m, err := dialSystemd(ctx, u.user)
	if err != nil {
		return fmt.Errorf("systemd: %w", err)
	}
	defer func() { _ = m.conn.Close() }()
	if err := say(ctx, m); err != nil {
		return fmt.Errorf("systemd: %w", err)
	}
	return nil
}

// systemd is a connection to a manager.
type systemd struct {
	conn *dbus.Conn
	name string // on the bus; "" on a private socket
}

// dialSystemd connects to the system's or the user's manager: to its private
// socket, which tells every signal, or else through the bus.
func dialSystemd(ctx context.Context, user bool) (*systemd, error) {
	private, bus := "/run/systemd/private", os.Getenv("DBUS_SYSTEM_BUS_ADDRESS")
	busSocket := "/run/dbus/system_bus_socket"
	if user {
		dir := os.Getenv("XDG_RUNTIME_DIR")
		if dir == "" {
			dir = fmt.Sprintf("/run/user/%d", os.Getuid())
		}
		private, bus, busSocket = dir+"/systemd/private", os.Getenv("DBUS_SESSION_BUS_ADDRESS"), dir+"/bus"
	}
	m := &systemd{}
	var err error
	if m.conn, err = dbus.Dial(ctx, private); err == nil {
		m.conn.Keep(isJobRemoved)
		return m, nil
	}
	if bus == "" {
		bus = "unix:path=" + busSocket
	}
	var busErr error
	if m.conn, busErr = dbus.DialBus(ctx, bus); busErr != nil {
		return nil, fmt.Errorf("no manager can be reached: %w: boot with systemd, or leave --systemd-cgroup out", errors.Join(err, busErr))
	}
	m.name = systemdName
	m.conn.Keep(isJobRemoved)
	err = m.conn.AddMatch(ctx, "type='signal',sender='"+systemdName+"',interface='"+systemdInterface+"',member='JobRemoved'")
	if err != nil {
		return nil, errors.Join(err, m.conn.Close())
	}
	return m, nil
}

func isJobRemoved(m *dbus.Message) bool { return m.IsSignal(systemdInterface, "JobRemoved") }

func (m *systemd) send(ctx context.Context, member string, args []dbus.Value) (*dbus.Message, error) {
	return m.conn.Call(ctx, dbus.Call{Destination: m.name, Path: systemdPath, Interface: systemdInterface, Member: member, Args: args})
}

func (m *systemd) call(ctx context.Context, member string, args ...dbus.Value) error {
	_, err := m.send(ctx, member, args)
	return err
}

// job calls a method that answers with a job, and waits for the job's end.
func (m *systemd) job(ctx context.Context, member string, args []dbus.Value) error {
	reply, err := m.send(ctx, member, args)
	if err != nil {
		return err
	}
	job := reply.Text(0)
	removed, err := m.conn.Await(ctx, func(m *dbus.Message) bool { return isJobRemoved(m) && m.Text(1) == job })
	if err != nil {
		return err
	}
	if result := removed.Text(3); result != "done" {
		return fmt.Errorf("its job ended with %q: see systemctl status and the journal", result)
	}
	return nil
}

// get reads a property of the manager.
func (m *systemd) get(ctx context.Context, name string) (string, error) {
	reply, err := m.conn.Call(ctx, dbus.Call{Destination: m.name, Path: systemdPath, Interface: "org.freedesktop.DBus.Properties",
		Member: "Get", Args: []dbus.Value{dbus.String(systemdInterface), dbus.String(name)}})
	if err != nil {
		return "", err
	}
	return reply.Text(0), nil
}
