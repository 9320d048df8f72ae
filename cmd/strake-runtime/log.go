package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"
)

// logger writes runc's log: go-runc and others read the last error of the file
// that they give with --log. Without a file there is no log: what matters goes to
// standard error in words anyway.
type logger struct {
	file  *os.File
	json  bool
	debug bool
}

func (l *logger) open(path, format string, debug bool) error {
	switch format {
	case "text":
	case "json":
		l.json = true
	default:
		return fmt.Errorf("--log-format: %q is not text or json", format)
	}
	l.debug = debug
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("--log: %w", err)
	}
	l.file = f
	return nil
}

func (l *logger) close() {
	if l.file != nil {
		_ = l.file.Close() // every entry has been written by itself
	}
}

// warn logs what was left out; without a log file it goes to standard error.
func (l *logger) warn(messages ...string) {
	for _, m := range messages {
		l.write("warning", m)
		if l.file == nil {
			fmt.Fprintln(os.Stderr, "warning:", m)
		}
	}
}

// trace logs what only --debug asks for.
func (l *logger) trace(message string) {
	if l.debug {
		l.write("debug", message)
	}
}

// write appends an entry in one write, since several processes share the file.
func (l *logger) write(level, message string) {
	if l.file == nil {
		return
	}
	now := time.Now().Format(time.RFC3339)
	line := "time=" + strconv.Quote(now) + " level=" + level + " msg=" + strconv.Quote(message)
	if l.json {
		entry := struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
			Time  string `json:"time"`
		}{level, message, now}
		data, err := json.Marshal(entry)
		if err != nil {
			return // strings always marshal
		}
		line = string(data)
	}
	_, _ = l.file.WriteString(line + "\n") // a full disk must not stop a delete
}
