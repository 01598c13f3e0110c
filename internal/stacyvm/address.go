package stacyvm

import (
	"net/netip"
	"slices"
)

// metadataAddresses are where clouds tell a machine its own secrets, beside the link-local ones:
// AWS, Alibaba, Azure, Oracle.
var metadataAddresses = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("168.63.129.16"),
	netip.MustParseAddr("192.0.0.192"),
}

// nat64 carries IPv4 addresses in IPv6 ones (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// NoWorkerAddress reports an address at which no worker is called: link-local ones and those where
// clouds keep a machine's secrets, those of many machines, and those of none.
func NoWorkerAddress(address netip.Addr) bool {
	address = address.WithZone("").Unmap()
	if nat64.Contains(address) {
		last := address.As16()
		address = netip.AddrFrom4([4]byte(last[12:]))
	}
	return address.IsLinkLocalUnicast() || address.IsMulticast() || address.IsUnspecified() ||
		slices.Contains(metadataAddresses, address)
}
