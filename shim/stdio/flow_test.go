package stdio

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/strake-containers/strake/internal/sys"
)

// TestFlowVictim is no test: it is the program that TestKilled kills. It moves
// what is in the FIFOs of a directory into a log.
func TestFlowVictim(t *testing.T) {
	dir := os.Getenv("STRAKE_FLOW_DIR")
	if dir == "" {
		t.Skip("TestKilled runs it")
	}
	log := "cri://" + filepath.Join(dir, "log")
	s, err := Open(t.Context(), Config{Dir: dir, Stdout: log, Stderr: log, Adopt: true})
	if err == nil {
		err = s.Started(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	s.Finish()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// Whoever writes the log is killed again and again, between any two
// instructions, and the log is renamed away in between: no byte of either stream
// is lost or doubled.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	streams := []string{"stdout", "stderr"}
	var writers []*exec.Cmd
	for i, name := range streams {
		if err := sys.MakeFIFO(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
		end, err := openChildFIFO(filepath.Join(dir, name), os.O_RDWR)
		if err != nil {
			t.Fatal(err)
		}
		// One has lines of its own length, with pieces; the other short ones.
		script := `i=0; while [ $i -lt 3000 ]; do i=$((i+1)); printf '%d ' $i; printf '%0*d\n' $((i % 400 * 100)) 0; done`
		if i == 1 {
			script = "seq 300000"
		}
		w := exec.Command("bash", "-c", script)
		w.Stdout = end
		if err := w.Start(); err != nil {
			t.Skip("needs bash: ", err)
		}
		_ = end.Close()
		writers = append(writers, w)
	}
	done := make(chan struct{})
	go func() {
		for _, w := range writers {
			_ = w.Wait()
		}
		close(done)
	}()
	// Holds the FIFOs when the writers have ended, as the daemon does.
	for _, name := range streams {
		f, err := openFIFO(filepath.Join(dir, name), os.O_RDWR)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
	}

	var parts []string
	kills := 0
	for ended := false; !ended; kills++ {
		victim := exec.Command(os.Args[0], "-test.run", "^TestFlowVictim$")
		victim.Env = append(os.Environ(), "STRAKE_FLOW_DIR="+dir)
		victim.Stderr = os.Stderr
		in, err := victim.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := victim.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
			t.Fatalf("the victim said %q, %v", line, err)
		}
		select {
		case <-done:
			ended = true
			_, _ = in.Write([]byte("\n"))
			if err := victim.Wait(); err != nil {
				t.Fatal(err)
			}
		case <-time.After(time.Duration(rand.IntN(20000)) * time.Microsecond):
			_ = victim.Process.Kill()
			_ = victim.Wait()
			if kills%3 == 0 { // a rotation that nobody was there to be told of
				part := fmt.Sprintf("%s/log.%d", dir, kills)
				if os.Rename(filepath.Join(dir, "log"), part) == nil {
					parts = append(parts, part)
				}
			}
		}
	}
	if kills < 5 {
		t.Errorf("only %d kills", kills)
	}
	t.Logf("%d kills, %d rotations", kills, len(parts))

	text := map[string]*strings.Builder{"stdout": {}, "stderr": {}}
	for _, part := range append(parts, filepath.Join(dir, "log")) {
		for _, line := range content(t, part) {
			stream, rest, _ := strings.Cut(line, " ")
			tag, piece, _ := strings.Cut(rest, " ")
			text[stream].WriteString(piece)
			if tag == "F" {
				text[stream].WriteByte('\n')
			}
		}
	}
	i := 0
	for line := range strings.Lines(text["stdout"].String()) {
		i++
		number, zeros, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if number != strconv.Itoa(i) || len(zeros) != max(i%400*100, 1) {
			t.Fatalf("stdout: line %d is %.40q, %d long", i, line, len(line))
		}
	}
	j := 0
	for line := range strings.Lines(text["stderr"].String()) {
		j++
		if line != strconv.Itoa(j)+"\n" {
			t.Fatalf("stderr: line %d is %.40q", j, line)
		}
	}
	if i != 3000 || j != 300000 {
		t.Errorf("%d and %d lines", i, j)
	}
}
