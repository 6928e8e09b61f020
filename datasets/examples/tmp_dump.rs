use nas_datasets::*;
fn main() {
    let t=std::time::Instant::now();
    nas_datasets::synth::write_cityscapes("/tmp/synth_dump".as_ref(), 8, 4, (192,384), 0).unwrap();
    println!("{:?}", t.elapsed());
    let ds = DataConfig::Synth{num_images:12,num_val:1,height:192,width:384,seed:0}.open(Split::Train).unwrap();
    let mut sheet = image::RgbImage::new(384*4, 192*6);
    let c = ds.classes().clone();
    for i in 0..12 { let s=ds.load(i).unwrap(); let l=s.label.unwrap();
      let col=image::RgbImage::from_fn(384,192,|x,y| image::Rgb(c.colors.get(l.get_pixel(x,y)[0] as usize).copied().unwrap_or([0;3])));
      let x=(i%4) as i64*384; let y=(i/4) as i64*384;
      image::imageops::replace(&mut sheet,&s.image,x,y); image::imageops::replace(&mut sheet,&col,x,y+192);}
    sheet.save("/tmp/sheet.png").unwrap();
}
