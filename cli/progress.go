package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// progress shows a pull: on a terminal one bar for each layer, redrawn in place;
// elsewhere one line for each layer that is done.
type progress struct {
	to     io.Writer
	width  int // of the terminal; 0: it is none
	layers []*strakev1.LayerProgress
	drawn  int // lines on the screen
}

// width is the terminal's, 0 if w is none.
func (a *app) width(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return max(width, minWidth)
}

// minWidth holds a layer's name, its phase and its size.
const minWidth = 50

func newProgress(to io.Writer, width int) *progress { return &progress{to: to, width: width} }

func (p *progress) update(news *strakev1.LayerProgress) {
	if news == nil {
		return
	}
	known := false
	for i, l := range p.layers {
		if known = l.Layer == news.Layer; known {
			p.layers[i] = news
			break
		}
	}
	if !known {
		p.layers = append(p.layers, news)
	}
	switch {
	case p.width > 0:
		p.draw()
	case news.Phase == "done" || news.Phase == "exists":
		fmt.Fprintf(p.to, "%s: %s\n", short(news.Layer), phaseText(news))
	}
}

// finish leaves the last state on the screen.
func (p *progress) finish() {
	if p.width > 0 && len(p.layers) > 0 {
		p.draw()
	}
}

// draw goes up over what was drawn before and draws again.
func (p *progress) draw() {
	var b strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.drawn)
	}
	for _, l := range p.layers {
		fmt.Fprintf(&b, "\r%s\x1b[K\n", layerLine(l, p.width))
	}
	p.drawn = len(p.layers)
	_, _ = io.WriteString(p.to, b.String()) // a picture for whoever looks
}

// layerLine is a layer in one line of at most width characters.
func layerLine(l *strakev1.LayerProgress, width int) string {
	head := short(l.Layer) + ": "
	if l.Phase != "pulling" || l.Total <= 0 {
		return clip(head+phaseText(l), width-1)
	}
	tail := " " + sizeText(uint64(l.Done)) + "/" + sizeText(uint64(l.Total))
	head += "Pulling "
	room := min(width-1-len(head)-len(tail)-2, 50)
	if room < 5 {
		return clip(head+tail, width-1)
	}
	filled := min(int(int64(room)*l.Done/l.Total), room)
	bar := strings.Repeat("=", filled)
	if filled > 0 && filled < room {
		bar = bar[1:] + ">"
	}
	return fmt.Sprintf("%s[%-*s]%s", head, room, bar, tail)
}

func phaseText(l *strakev1.LayerProgress) string {
	switch l.Phase {
	case "waiting":
		return "Waiting"
	case "pulling":
		return "Pulling " + sizeText(uint64(max(l.Done, 0)))
	case "exists":
		return "Already exists"
	case "done":
		return "Done"
	}
	return l.Phase
}

func clip(s string, width int) string { return s[:min(len(s), max(width, 0))] }
