package bundle

import (
	"bytes"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Accounts are an image's /etc/passwd and /etc/group; nil where it has none.
type Accounts struct {
	Passwd, Group []byte
}

// passwdEntry is a line of passwd(5) as far as it matters here.
type passwdEntry struct {
	name     string
	uid, gid uint32
	home     string
}

// containerUser is the user a container asks for.
func containerUser(c *ContainerConfig, imageUser string, a Accounts) (User, string, error) {
	const field = "linux.security_context"
	s := &c.Security
	spec := imageUser
	from := "the image's user"
	switch {
	case s.RunAsUser != nil && s.RunAsUsername != "":
		return User{}, "", invalid(field+".run_as_username", "run_as_user is set too")
	case s.RunAsUser != nil:
		from = field + ".run_as_user"
		spec = strconv.FormatInt(*s.RunAsUser, 10)
	case s.RunAsUsername != "":
		from = field + ".run_as_username"
		spec = s.RunAsUsername
	case s.RunAsGroup != nil:
		return User{}, "", invalid(field+".run_as_group", "is set without run_as_user or run_as_username")
	}
	if s.RunAsGroup != nil {
		user, _, _ := strings.Cut(spec, ":")
		spec = user + ":" + strconv.FormatInt(*s.RunAsGroup, 10)
	}
	u, home, err := ResolveUser(from, spec, s.SupplementalGroupsPolicy, a)
	if err != nil {
		return User{}, "", err
	}
	for i, g := range s.SupplementalGroups {
		if g < 0 || g > math.MaxUint32-1 {
			return User{}, "", invalid(index(field+".supplemental_groups", i), "%d is no group id", g)
		}
		u.Groups = append(u.Groups, uint32(g))
	}
	u.Groups = uniqueGroups(u)
	return u, home, nil
}

// ResolveUser turns "user", "user:group" or "" (root) into numbers and a home
// directory. What is all digits is a number and never a name, whatever names the
// image's files hold (CVE-2016-3697). A number that is not in them stands as it
// is, with group 0. From names the field for the error.
func ResolveUser(from, spec string, policy GroupsPolicy, a Accounts) (User, string, error) {
	name, group, hasGroup := strings.Cut(spec, ":")
	if hasControl(spec) || len(spec) > maxName || hasGroup && (group == "" || name == "" || strings.Contains(group, ":")) {
		return User{}, "", invalid(from, "%q: has to be user, uid, user:group or uid:gid", spec)
	}
	if name == "" {
		name = "0"
	}
	var u User
	home := "/"
	entry, found := passwdEntry{}, false
	if uid, numeric, err := number(from, name); err != nil {
		return User{}, "", err
	} else if numeric {
		u.UID = uid
		entry, found = findUser(a.Passwd, func(e passwdEntry) bool { return e.uid == uid })
	} else if entry, found = findUser(a.Passwd, func(e passwdEntry) bool { return e.name == name }); !found {
		return User{}, "", invalid(from, "no user %q in the image's /etc/passwd", name)
	}
	if found {
		u.UID, u.GID = entry.uid, entry.gid
		// A home of several lines would be several variables to who prints them.
		if strings.HasPrefix(entry.home, "/") && !hasControl(entry.home) {
			home = entry.home
		}
	}
	if hasGroup {
		if gid, numeric, err := number(from, group); err != nil {
			return User{}, "", err
		} else if numeric {
			u.GID = gid
		} else if u.GID, found = findGroup(a.Group, group); !found {
			return User{}, "", invalid(from, "no group %q in the image's /etc/group", group)
		}
	}
	if policy == GroupsMerge && entry.name != "" {
		u.Groups = groupsOf(a.Group, entry.name)
	}
	u.Groups = uniqueGroups(u)
	return u, home, nil
}

// uniqueGroups puts the primary group first: without it among the supplemental
// ones, a process could shed it and pass a "deny to group" mode.
func uniqueGroups(u User) []uint32 {
	groups := []uint32{u.GID}
	for _, g := range u.Groups {
		if !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
	}
	return groups
}

// number reads an id. All digits (or a sign and digits) is meant as one.
func number(from, s string) (id uint32, numeric bool, err error) {
	digits := strings.TrimLeft(s, "+-")
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == math.MaxUint32 { // -1 means "no change" to setuid(2)
		return 0, true, invalid(from, "%q is no user or group id", s)
	}
	return uint32(n), true, nil
}

// findUser returns the first entry that fits; lines that are none are skipped.
func findUser(passwd []byte, fits func(passwdEntry) bool) (passwdEntry, bool) {
	for line := range bytes.Lines(passwd) {
		f := strings.Split(strings.TrimRight(string(line), "\r\n"), ":")
		if len(f) != 7 || f[0] == "" || f[0][0] == '#' {
			continue
		}
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		if e := (passwdEntry{f[0], uint32(uid), uint32(gid), f[5]}); fits(e) {
			return e, true
		}
	}
	return passwdEntry{}, false
}

func eachGroup(group []byte, do func(name string, gid uint32, members string) (more bool)) {
	for line := range bytes.Lines(group) {
		f := strings.Split(strings.TrimRight(string(line), "\r\n"), ":")
		if len(f) != 4 || f[0] == "" || f[0][0] == '#' {
			continue
		}
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			continue
		}
		if !do(f[0], uint32(gid), f[3]) {
			return
		}
	}
}

func findGroup(group []byte, name string) (gid uint32, found bool) {
	eachGroup(group, func(n string, g uint32, _ string) bool {
		if n == name {
			gid, found = g, true
		}
		return !found
	})
	return gid, found
}

// groupsOf lists the groups that have user as a member.
func groupsOf(group []byte, user string) []uint32 {
	var gids []uint32
	eachGroup(group, func(_ string, g uint32, members string) bool {
		if slices.Contains(strings.Split(members, ","), user) {
			gids = append(gids, g)
		}
		return len(gids) < 65536 // NGROUPS_MAX
	})
	return gids
}
