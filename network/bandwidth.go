package network

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// The annotations by which Kubernetes limits a pod's traffic, in bits per second.
const (
	ingressAnnotation = "kubernetes.io/ingress-bandwidth"
	egressAnnotation  = "kubernetes.io/egress-bandwidth"
)

// Limits outside of these are a mistake, as for Kubernetes.
const (
	minRate = 1e3  // 1 kbit/s
	maxRate = 1e15 // 1 Pbit/s
)

// Limits is the pod's Bandwidth, or else what its annotations ask for.
func (p Pod) Limits() (Bandwidth, error) {
	if p.Bandwidth != (Bandwidth{}) {
		return p.Bandwidth, nil
	}
	var b Bandwidth
	for key, rate := range map[string]*uint64{ingressAnnotation: &b.IngressRate, egressAnnotation: &b.EgressRate} {
		text, ok := p.Annotations[key]
		if !ok {
			continue
		}
		v, err := parseQuantity(text)
		if err != nil {
			return Bandwidth{}, fmt.Errorf("annotation %s: %w", key, err)
		}
		*rate = v
	}
	return b, nil
}

// suffixes of Kubernetes' quantities, with what they multiply by.
var suffixes = []struct {
	suffix string
	factor float64
}{
	{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40},
	{"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}, {"P", 1e15},
}

// parseQuantity reads a rate as Kubernetes writes quantities: 10M, 1.5Gi, 1e6.
func parseQuantity(text string) (uint64, error) {
	number, factor := text, 1.0
	for _, s := range suffixes {
		if n, ok := strings.CutSuffix(text, s.suffix); ok {
			number, factor = n, s.factor
			break
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if v *= factor; err != nil || math.IsNaN(v) || v < minRate || v > maxRate {
		return 0, fmt.Errorf("%q: want a rate of 1k to 1P bits per second, such as 10M", text)
	}
	return uint64(v), nil
}
