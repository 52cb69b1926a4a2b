//! A heat map as a picture: red speaks for, blue against, white says nothing.

use std::io::Cursor;

/// Pixels of the shorter side, at least.
const SIDE_MIN: usize = 224;

/// The colour of a value between −1 and 1.
pub fn colour(x: f64) -> [u8; 3] {
    let faded = |strength: f64| (255.0 * (1.0 - strength.clamp(0.0, 1.0))).round() as u8;
    if x >= 0.0 { [255, faded(x), faded(x)] } else { [faded(-x), faded(-x), 255] }
}

/// Values over the largest of their sizes.
pub fn relative(values: &[f64]) -> Vec<f64> {
    let largest = values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    values.iter().map(|v| if largest > 0.0 { v / largest } else { 0.0 }).collect()
}

/// A PNG of `values` `[height, width]`, each a square of equal pixels.
pub fn heatmap_png(values: &[f64], height: usize, width: usize) -> Vec<u8> {
    let scale = SIDE_MIN.div_ceil(height.min(width).max(1)).max(1);
    let relative = relative(values);
    let picture = image::RgbImage::from_fn((width * scale) as u32, (height * scale) as u32, |x, y| {
        let (row, column) = (y as usize / scale, x as usize / scale);
        image::Rgb(colour(relative[row * width + column]))
    });
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).expect("a picture in memory is written: bug");
    bytes.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_png_has_the_colours_of_its_values() {
        let png = heatmap_png(&[2.0, -2.0, 0.0, 1.0], 2, 2);
        let picture = image::load_from_memory(&png).unwrap().into_rgb8();
        assert_eq!(picture.dimensions(), (224, 224));
        assert_eq!(picture.get_pixel(0, 0).0, [255, 0, 0]);
        assert_eq!(picture.get_pixel(223, 0).0, [0, 0, 255]);
        assert_eq!(picture.get_pixel(0, 223).0, [255, 255, 255]);
        assert_eq!(picture.get_pixel(223, 223).0, [255, 128, 128]);
    }
}
