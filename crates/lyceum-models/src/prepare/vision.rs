//! Pictures to `[channels, height, width]` numbers.
//!
//! png, jpeg, webp and gif (its first frame) are read; a picture of another size than the model's is refused,
//! never resized. One channel is the luma of the colours (Rec. 709), three are RGB, four RGBA.

use super::error::PrepareError;
use image::{DynamicImage, ImageDecoder, ImageReader};
use lyceum_types::limits;
use serde::{Deserialize, Serialize};
use std::io::Cursor;

/// How pixels become inputs: `(pixel / scale - mean) / std`, per channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pixels {
    /// `[channels, height, width]`.
    pub shape: [usize; 3],
    /// Divides numbers that come as numbers (rows of a table, arrays).
    pub scale: f64,
    /// Divides the 0–255 of a picture file.
    pub file_scale: f64,
    /// One a channel, or empty: no standardisation.
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
}

impl Pixels {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends the pixels of a picture file.
    pub fn encode_file(&self, bytes: &[u8], out: &mut Vec<f32>) -> Result<(), PrepareError> {
        let [channels, height, width] = self.shape;
        let picture = decode(bytes, channels, Some((height, width)))?;
        let start = out.len();
        // Files interleave channels; the model wants them one after the other.
        for c in 0..channels {
            out.extend((0..height * width).map(|p| f32::from(picture.pixels[p * channels + c])));
        }
        self.finish(&mut out[start..], self.file_scale);
        Ok(())
    }

    /// Appends pixels given as numbers, already in `[channels, height, width]` order.
    pub fn encode_numbers(
        &self,
        numbers: impl ExactSizeIterator<Item = f32>,
        out: &mut Vec<f32>,
    ) -> Result<(), PrepareError> {
        if numbers.len() != self.len() {
            let [c, h, w] = self.shape;
            return Err(PrepareError::new(
                "wrong_shape",
                "image",
                format!("{} numbers, but a picture of this model has {}", numbers.len(), self.len()),
                format!("send {c} channels of {h} rows of {w} numbers"),
            ));
        }
        let start = out.len();
        out.extend(numbers);
        if let Some(at) = out[start..].iter().position(|x| !x.is_finite()) {
            out.truncate(start);
            return Err(PrepareError::new(
                "not_finite",
                format!("image[{at}]"),
                "not a finite number",
                "send finite numbers",
            ));
        }
        self.finish(&mut out[start..], self.scale);
        Ok(())
    }

    fn finish(&self, pixels: &mut [f32], scale: f64) {
        let plane = self.shape[1] * self.shape[2];
        for (i, pixel) in pixels.iter_mut().enumerate() {
            let mut x = f64::from(*pixel) / scale;
            if !self.mean.is_empty() {
                let c = i / plane;
                x = (x - self.mean[c]) / self.std[c];
            }
            *pixel = x as f32;
        }
    }
}

/// A decoded picture: `[height, width, channels]` bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub height: usize,
    pub width: usize,
    pub pixels: Vec<u8>,
}

/// Decodes a picture file. With `expected` (height, width), another size is refused before it is decoded.
pub fn decode(
    bytes: &[u8],
    channels: usize,
    expected: Option<(usize, usize)>,
) -> Result<Picture, PrepareError> {
    let broken = |error: image::ImageError| {
        PrepareError::new(
            "broken_image",
            "image",
            format!("the picture cannot be read: {error}"),
            "the file is cut short or no png, jpeg, webp or gif; write it again or remove it",
        )
    };
    let reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| broken(image::ImageError::IoError(error)))?;
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    if let Some((h, w)) = expected
        && (h, w) != (height, width)
    {
        return Err(PrepareError::new(
            "wrong_image_size",
            "image",
            format!("the picture is {width}×{height} pixels, but the model's are {w}×{h}"),
            format!("resize it to {w}×{h}, width by height"),
        ));
    }
    if width.saturating_mul(height) > limits::PICTURE_PIXELS_MAX {
        return Err(PrepareError::new(
            "image_too_large",
            "image",
            format!("the picture says that it is {width}×{height} pixels"),
            format!("at most {} million pixels are read", limits::PICTURE_PIXELS_MAX / 1_000_000),
        ));
    }
    decoder.set_limits(image::Limits::default()).map_err(broken)?;
    let picture = DynamicImage::from_decoder(decoder).map_err(broken)?;
    let pixels = match channels {
        1 => picture.into_luma8().into_raw(),
        3 => picture.into_rgb8().into_raw(),
        4 => picture.into_rgba8().into_raw(),
        _ => {
            return Err(PrepareError::new(
                "wrong_shape",
                "image",
                format!("a picture file cannot have {channels} channels"),
                "set input.shape's first number to 1 (grey), 3 (RGB) or 4 (RGBA)",
            ));
        }
    };
    Ok(Picture { height, width, pixels })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, ImageFormat, RgbImage};

    fn png(picture: DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    fn pixels(shape: [usize; 3]) -> Pixels {
        Pixels { shape, scale: 16.0, file_scale: 255.0, mean: vec![], std: vec![] }
    }

    #[test]
    fn a_picture_file_becomes_planes_divided_by_the_scale() {
        let rgb = RgbImage::from_fn(2, 1, |x, _| image::Rgb([255, 51 * x as u8, 0]));
        let mut out = Vec::new();
        pixels([3, 1, 2]).encode_file(&png(rgb.into()), &mut out).unwrap();
        assert_eq!(out, [1.0, 1.0, 0.0, 0.2, 0.0, 0.0]);
    }

    #[test]
    fn numbers_and_the_same_picture_agree_and_are_standardised_per_channel() {
        let mut p = pixels([1, 2, 2]);
        (p.mean, p.std) = (vec![0.5], vec![0.25]);
        let grey = GrayImage::from_raw(2, 2, vec![0, 255, 255, 0]).unwrap();
        let (mut file, mut numbers) = (Vec::new(), Vec::new());
        p.encode_file(&png(grey.into()), &mut file).unwrap();
        p.encode_numbers([0.0, 16.0, 16.0, 0.0].into_iter(), &mut numbers).unwrap();
        assert_eq!(file, [-2.0, 2.0, 2.0, -2.0]);
        assert_eq!(file, numbers);
    }

    #[test]
    fn what_a_file_says_of_its_size_is_bounded_before_memory_is_taken() {
        let mut file = png(GrayImage::new(8, 9).into());
        file[16..24].copy_from_slice(&[0, 0, 0x14, 6, 0, 0xa7, 0, 5]);
        let checksum = crc32(&file[12..29]).to_be_bytes();
        file[29..33].copy_from_slice(&checksum);
        assert_eq!(decode(&file, 3, None).unwrap_err().code, "image_too_large");
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let step = |crc: u32, _: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
    }

    #[test]
    fn wrong_sizes_and_truncated_files_are_refused_with_both_sides() {
        let file = png(GrayImage::new(8, 9).into());
        let error = pixels([1, 8, 8]).encode_file(&file, &mut Vec::new()).unwrap_err();
        assert_eq!(error.code, "wrong_image_size");
        assert!(error.message.contains("8×9") && error.message.contains("8×8"), "{}", error.message);
        let error = pixels([1, 9, 8]).encode_file(&file[..file.len() - 20], &mut Vec::new()).unwrap_err();
        assert_eq!(error.code, "broken_image");
        let error = pixels([1, 9, 8]).encode_file(b"hello", &mut Vec::new()).unwrap_err();
        assert_eq!(error.code, "broken_image");
        let error = pixels([1, 2, 2]).encode_numbers([0.0; 3].into_iter(), &mut Vec::new()).unwrap_err();
        assert_eq!(error.code, "wrong_shape");
    }
}
