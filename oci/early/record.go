package early

// record is what the verbs need of a state.json, which oci/container writes
// (docs/format). Texts are as they stand there, in quotes, for state to show.
type record struct {
	id, bundle, rootfs, created string
	annotations                 string // the object, or ""
	cgroup, cgroupTop           string // without quotes
	pid, startTime              uint64
	hooks, sharedPID, restored  bool
	more                        bool // there is something to undo that is not known here
}

// decode reads the text of a record. It fails for one that its writer would not have
// written: spaces, a member that is not known here.
func (r *record) decode(text string) bool {
	t := reader{text: text}
	var version uint64
	t.expect('{')
	for !t.bad {
		name := t.quoted()
		t.expect(':')
		switch name {
		case `"version"`:
			version = t.number()
		case `"id"`:
			r.id = t.quoted()
		case `"bundle"`:
			r.bundle = t.quoted()
		case `"rootfs"`:
			r.rootfs = t.quoted()
		case `"cgroup"`:
			r.cgroup = t.plain()
		case `"cgroupTop"`:
			r.cgroupTop = t.plain()
		case `"created"`:
			r.created = t.quoted()
		case `"pid"`:
			r.pid = t.number()
		case `"startTime"`:
			r.startTime = t.number()
		case `"annotations"`:
			r.annotations = t.texts()
		case `"hooks"`:
			r.hooks = t.yes()
		case `"sharedPid"`:
			r.sharedPID = t.yes()
		case `"restored"`:
			r.restored = t.yes()
		case `"cgroupUnit"`, `"stays"`, `"staysIn"`:
			r.more = true
			t.quoted()
		case `"cgroupUser"`:
			t.bad = !t.yes()
		case `"staysInID"`, `"staysOn"`:
			t.number()
		default: // resctrl and resctrlMade too
			return false
		}
		if t.take('}') {
			break
		}
		t.expect(',')
	}
	const knownVersion, most = 1, 1 << 30
	whole := !t.bad && t.at == len(text) && version == knownVersion
	return whole && r.pid > 0 && r.pid < most && r.id != "" && r.bundle != "" && r.rootfs != "" && r.created != ""
}

// reader reads JSON without spaces. What it returns after bad is of no use.
type reader struct {
	text string
	at   int
	bad  bool
}

func (t *reader) take(c byte) bool {
	if t.bad || t.at >= len(t.text) || t.text[t.at] != c {
		return false
	}
	t.at++
	return true
}

func (t *reader) expect(c byte) {
	if !t.take(c) {
		t.bad = true
	}
}

// quoted reads a text of printable ASCII and returns it with its quotes.
func (t *reader) quoted() string {
	start := t.at
	t.expect('"')
	for ; !t.bad && t.at < len(t.text); t.at++ {
		c := t.text[t.at]
		switch {
		case c == '"':
			t.at++
			return t.text[start:t.at]
		case c < ' ' || c >= 0x7f || c == '\\':
			t.bad = true
		}
	}
	t.bad = true
	return ""
}

// plain is an absolute path, or nothing.
func (t *reader) plain() string {
	q := t.quoted()
	if t.bad {
		return ""
	}
	q = q[1 : len(q)-1]
	if q != "" && (!plainPath(q) || q == "/") {
		t.bad = true
	}
	return q
}

func (t *reader) number() uint64 {
	start := t.at
	for t.at < len(t.text) && t.text[t.at] >= '0' && t.text[t.at] <= '9' {
		t.at++
	}
	digits := t.text[start:t.at]
	n, ok := number(digits)
	if !ok || len(digits) > 1 && digits[0] == '0' {
		t.bad = true
	}
	return n
}

func (t *reader) yes() bool {
	const word = "true"
	if t.bad || len(t.text)-t.at < len(word) || t.text[t.at:t.at+len(word)] != word {
		t.bad = true
		return false
	}
	t.at += len(word)
	return true
}

// texts reads an object whose members are texts.
func (t *reader) texts() string {
	start := t.at
	t.expect('{')
	for !t.bad {
		t.quoted()
		t.expect(':')
		t.quoted()
		if t.take('}') {
			return t.text[start:t.at]
		}
		t.expect(',')
	}
	return ""
}
