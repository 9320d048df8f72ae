package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/strake-containers/strake/internal/sys"
)

// logger writes the log, in runc's format: go-runc and others read the last error
// of the file that they give with --log. Without --log what matters goes to
// standard error in words, or as a log if one was asked for by --debug or
// --log-format=json.
type logger struct {
	out   *os.File // nil without a log
	own   bool     // ours to close
	json  bool
	level logLevel
	// entry makes what one Write of an entry writes.
	entry func(level logLevel, message string) []byte
}

type logLevel int

const (
	levelError logLevel = iota
	levelWarning
	levelDebug
)

func (l logLevel) String() string { return [...]string{"error", "warning", "debug"}[l] }

// priority is syslog(3)'s.
func (l logLevel) priority() int { return [...]int{3, 4, 7}[l] }

func parseLevel(text string) (logLevel, error) {
	switch text {
	case "error":
		return levelError, nil
	case "", "warning", "warn", "info":
		return levelWarning, nil
	case "debug":
		return levelDebug, nil
	}
	return 0, fmt.Errorf("--log-level: %q is not error, warning or debug", text)
}

// Where the system's logs listen.
const (
	journalSocket = "/run/systemd/journal/socket"
	syslogSocket  = "/dev/log"
)

// open starts the log. Target is a file, file:FILE, journald:ID or syslog:ID.
func (l *logger) open(target, format string, level logLevel) (err error) {
	switch format {
	case "text":
	case "json":
		l.json = true
	default:
		return fmt.Errorf("--log-format: %q is not text or json", format)
	}
	l.level, l.entry = level, l.line
	kind, where := logTarget(target)
	switch {
	case target == "":
		if l.json || level == levelDebug {
			l.out = os.Stderr
		}
		return nil
	case kind == "file":
		l.out, err = os.OpenFile(where, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	case kind == "journald":
		l.entry = func(level logLevel, message string) []byte { return journalEntry(where, level, message) }
		l.out, err = sys.DialDatagram(journalSocket)
	case kind == "syslog":
		l.entry = func(level logLevel, message string) []byte { return syslogEntry(where, level, message) }
		l.out, err = sys.DialDatagram(syslogSocket)
	default:
		err = fmt.Errorf("%q is not file:FILE, journald:ID or syslog:ID; a file of this name is ./%s", target, target)
	}
	if err != nil {
		l.out = nil
		return fmt.Errorf("--log: %w", err)
	}
	l.own = true
	return nil
}

// logTarget takes a log target apart. What has no word before its first colon is
// a file.
func logTarget(target string) (kind, where string) {
	kind, where, ok := strings.Cut(target, ":")
	if !ok || strings.Trim(kind, "abcdefghijklmnopqrstuvwxyz") != "" {
		return "file", target
	}
	return kind, where
}

func (l *logger) close() {
	if l.own {
		_ = l.out.Close() // every entry has been written by itself
	}
}

// toStderr says whether standard error shows the log.
func (l *logger) toStderr() bool { return l.out == os.Stderr }

// warn logs what was left out; without a log it goes to standard error.
func (l *logger) warn(messages ...string) {
	for _, m := range messages {
		l.write(levelWarning, m)
		if l.out == nil {
			fmt.Fprintln(os.Stderr, "warning:", strings.ReplaceAll(m, "\n", "; "))
		}
	}
}

// trace logs what only --debug asks for.
func (l *logger) trace(message string) { l.write(levelDebug, message) }

// tracer is trace for who would have to make the messages, or nil.
func (l *logger) tracer() func(string) {
	if l.out == nil || l.level < levelDebug {
		return nil
	}
	return l.trace
}

// write appends an entry in one write, since several processes share the log.
func (l *logger) write(level logLevel, message string) {
	if l.out != nil && level <= l.level {
		_, _ = l.out.Write(l.entry(level, message)) // a full disk must not stop a delete
	}
}

func (l *logger) line(level logLevel, message string) []byte {
	now := time.Now().Format(time.RFC3339)
	line := []byte(`time="` + now + `" level=` + level.String() + " msg=" + strconv.Quote(message))
	if l.json {
		entry := struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
			Time  string `json:"time"`
		}{level.String(), message, now}
		if data, err := json.Marshal(entry); err == nil { // strings always marshal
			line = data
		}
	}
	return append(line, '\n')
}

// journalEntry is in the journal's native protocol. A message is sent with its
// length, so that nothing in it can be taken for another field.
func journalEntry(id string, level logLevel, message string) []byte {
	e := []byte("PRIORITY=" + strconv.Itoa(level.priority()) + "\n")
	if id = strings.ReplaceAll(id, "\n", " "); id != "" {
		e = append(e, "SYSLOG_IDENTIFIER="+id+"\n"...)
	}
	e = append(e, "MESSAGE\n"...)
	e = binary.LittleEndian.AppendUint64(e, uint64(len(message)))
	return append(append(e, message...), '\n')
}

// syslogEntry is as the C library sends it, of facility daemon.
func syslogEntry(id string, level logLevel, message string) []byte {
	const daemon = 3 << 3
	return fmt.Appendf(nil, "<%d>%s %s[%d]: %s", daemon|level.priority(), time.Now().Format(time.Stamp), id, os.Getpid(), message)
}
