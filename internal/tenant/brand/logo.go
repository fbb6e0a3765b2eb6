package brand

import (
	"bytes"
	"errors"
	"fmt"
	"image/png"
)

// The media types of logos.
const (
	PNG = "image/png"
	SVG = "image/svg+xml"
)

const (
	// maxLogo bounds a logo's bytes, given and re-encoded, maxPixels each side of a PNG.
	maxLogo, maxPixels = 256 << 10, 1024
)

// CleanLogo makes of a picture that somebody sent one that holds nothing else: a PNG is decoded and encoded anew, an SVG
// is written anew from the elements and attributes that are known to be harmless. Whatever acts, or leads elsewhere, is
// refused and not dropped: its author should know that his picture will not look as he thinks. Errors say what to do.
func CleanLogo(body []byte) (clean []byte, mediaType string, err error) {
	switch {
	case len(body) == 0:
		return nil, "", errors.New("is empty: give a PNG or an SVG file")
	case len(body) > maxLogo:
		return nil, "", fmt.Errorf("has %d KB, and %d KB is the most: save it smaller", (len(body)+1023)>>10, maxLogo>>10)
	case bytes.HasPrefix(body, []byte("\x89PNG\r\n\x1a\n")):
		clean, err = cleanPNG(body)
		mediaType = PNG
	case bytes.HasPrefix(bytes.TrimLeft(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")), " \t\r\n"), []byte("<")):
		clean, err = cleanSVG(body)
		mediaType = SVG
	default:
		return nil, "", errors.New("is neither a PNG nor an SVG file: save it as one of them")
	}
	if err == nil && len(clean) > maxLogo {
		err = fmt.Errorf("has %d KB once it is cleaned, and %d KB is the most: save it smaller", (len(clean)+1023)>>10, maxLogo>>10)
	}
	if err != nil {
		return nil, "", err
	}
	return clean, mediaType, nil
}

// cleanPNG keeps the pixels, and no metadata.
func cleanPNG(body []byte) ([]byte, error) {
	head, err := png.DecodeConfig(bytes.NewReader(body)) // before anything of the promised size is made
	if err != nil {
		return nil, fmt.Errorf("is no PNG file that can be read (%w): save it again", err)
	}
	if head.Width > maxPixels || head.Height > maxPixels {
		return nil, fmt.Errorf("has %d × %d pixels, and %d × %d is the most: save it smaller", head.Width, head.Height, maxPixels, maxPixels)
	}
	picture, err := png.Decode(bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("is no PNG file that can be read (%w): save it again", err)
	}
	var out bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	if err := encoder.Encode(&out, picture); err != nil {
		return nil, fmt.Errorf("cannot be encoded: %w", err)
	}
	return out.Bytes(), nil
}
